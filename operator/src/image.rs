//! Image references: the installation's defaults, changed as `spec.images` says.

/// A reference taken apart: `[repository/]name[:tag][@digest]`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Reference<'a> {
    /// Registry and path before the last slash; empty when there is none.
    repository: &'a str,
    name: &'a str,
    /// With its colon or at sign; empty when there is none.
    suffix: &'a str,
}

fn parse(reference: &str) -> Reference<'_> {
    let (repository, rest) = match reference.rfind('/') {
        // A digest has no slash, so the last slash always ends the repository.
        Some(slash) => (&reference[..slash], &reference[slash + 1..]),
        None => ("", reference),
    };
    let end = rest.find(['@', ':']).unwrap_or(rest.len());
    Reference {
        repository,
        name: &rest[..end],
        suffix: &rest[end..],
    }
}

/// Where images come from, as `spec.images` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source<'a> {
    /// Replaces the registry and path; empty keeps the default's.
    pub registry: &'a str,
    /// Goes before the image's name.
    pub prefix: &'a str,
    /// Replaces the tag; empty keeps it.
    pub digest: &'a str,
}

/// The reference kubelets pull: `default` changed as `source` says.
pub fn resolve(default: &str, source: &Source<'_>) -> String {
    let reference = parse(default);
    let repository = if source.registry.is_empty() {
        reference.repository
    } else {
        source.registry
    };
    let mut image = String::new();
    if !repository.is_empty() {
        image.push_str(repository.trim_end_matches('/'));
        image.push('/');
    }
    image.push_str(source.prefix);
    image.push_str(reference.name);
    if source.digest.is_empty() {
        image.push_str(reference.suffix);
    } else {
        image.push('@');
        image.push_str(source.digest);
    }
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(default: &str, registry: &str, prefix: &str, digest: &str, expect: &str) {
        assert_eq!(
            resolve(
                default,
                &Source {
                    registry,
                    prefix,
                    digest
                }
            ),
            expect
        );
    }

    #[test]
    fn references_follow_registry_prefix_and_digest() {
        check("carrick:0.1.0", "", "", "", "carrick:0.1.0");
        check(
            "localhost/carrick:0.1.0",
            "",
            "",
            "",
            "localhost/carrick:0.1.0",
        );
        check("r.io:5000/a/carrick:1", "", "", "", "r.io:5000/a/carrick:1");
        check(
            "r.io:5000/carrick",
            "mirror:443/x",
            "",
            "",
            "mirror:443/x/carrick",
        );
        check("r.io/carrick:1", "mirror/", "m-", "", "mirror/m-carrick:1");
        check(
            "r.io/carrick:1",
            "",
            "",
            "sha256:ab",
            "r.io/carrick@sha256:ab",
        );
        check(
            "r.io/carrick@sha256:cd",
            "x",
            "",
            "sha256:ab",
            "x/carrick@sha256:ab",
        );
        check(
            "r.io/carrick:1@sha256:cd",
            "x",
            "",
            "",
            "x/carrick:1@sha256:cd",
        );
    }
}
