//! Programs built from Go modules of ours (`hack/kubernetes`, `hack/helm`, `hack/coredns`, …), cached by
//! content: the key is the hash of every input, so a fresh clone on a warm machine builds nothing and a
//! changed version never runs an old binary.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use crate::exec;
use crate::paths;
use crate::progress::Progress;

/// Kubernetes' version, as its binaries report it; that of hack/kubernetes/go.mod.
pub const KUBERNETES_VERSION: &str = "v1.34.4";
/// Names the one Kubernetes binary goes by.
const APPLETS: [&str; 6] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kubectl",
];

/// Where the programs are.
#[derive(Debug, Clone)]
pub struct Binaries {
    dir: PathBuf,
}

impl Binaries {
    /// A directory with etcd, kube-apiserver, …, kubectl, and pause and agnhost.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// kubectl.
    #[must_use]
    pub fn kubectl(&self) -> PathBuf {
        self.dir.join("kubectl")
    }
}

/// Builds Kubernetes, pause and agnhost, or finds them in the cache, and links them into `bin`.
///
/// # Errors
/// When Go is missing or a build fails; what the compiler said is part of the error.
pub fn kubernetes(progress: &Progress) -> Result<Binaries> {
    let module = paths::repository().join("hack/kubernetes");
    let stamp = stamp();
    let builds = [
        Build {
            output: "kubernetes",
            package: ".",
            ldflags: &stamp,
        },
        Build {
            output: "pause",
            package: "./pause",
            ldflags: "-s -w",
        },
        Build {
            output: "agnhost",
            package: "k8s.io/kubernetes/test/images/agnhost",
            ldflags: "-s -w",
        },
    ];
    let dir = build(&module, "kubernetes", &builds, progress)?;
    for applet in APPLETS {
        if !dir.join(applet).exists() {
            relink(Path::new("kubernetes"), &dir.join(applet))?;
        }
    }
    let bin = paths::bin()?;
    for name in APPLETS {
        relink(&dir.join(name), &bin.join(name))?;
    }
    Ok(Binaries { dir })
}

/// What Kubernetes' own programs are told of their version: without it kubectl cannot parse one.
fn stamp() -> String {
    let version = "k8s.io/component-base/version";
    format!(
        "-s -w -X {version}.gitVersion={KUBERNETES_VERSION} -X {version}.gitMajor=1 -X {version}.gitMinor=34 \
         -X {version}.gitTreeState=clean -X {version}.gitCommit={KUBERNETES_VERSION} -X {version}.buildDate=2026-01-01T00:00:00Z"
    )
}

/// Builds kube-proxy, or finds it in the cache: a program of its own, so that its memory can be compared.
///
/// # Errors
/// As [`kubernetes`].
pub fn kube_proxy(progress: &Progress) -> Result<PathBuf> {
    let module = paths::repository().join("hack/kubernetes");
    let builds = [Build {
        output: "kube-proxy",
        package: "k8s.io/kubernetes/cmd/kube-proxy",
        ldflags: &stamp(),
    }];
    Ok(build(&module, "kube-proxy", &builds, progress)?.join("kube-proxy"))
}

/// Builds CoreDNS, or finds it in the cache.
///
/// # Errors
/// As [`kubernetes`].
pub fn coredns(progress: &Progress) -> Result<PathBuf> {
    let module = paths::repository().join("hack/coredns");
    let builds = [Build {
        output: "coredns",
        package: ".",
        ldflags: "-s -w",
    }];
    Ok(build(&module, "coredns", &builds, progress)?.join("coredns"))
}

/// Kubernetes' own tests of the network, and what they want to run in pods.
#[derive(Debug, Clone)]
pub struct KubernetesTests {
    /// The tests.
    pub program: PathBuf,
    /// The server of `regression-issue-74839`.
    pub boom_server: PathBuf,
    /// What agnhost shows to clients of TLS.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Builds Kubernetes' own tests of the network, or finds them in the cache.
///
/// # Errors
/// As [`kubernetes`].
pub fn kubernetes_tests(progress: &Progress) -> Result<KubernetesTests> {
    let module = paths::repository().join("hack/kubernetes-e2e");
    let builds = [
        Build {
            output: "kubernetes-e2e",
            package: ".",
            ldflags: &stamp(),
        },
        Build {
            output: "boom-server",
            package: "k8s.io/kubernetes/test/images/regression-issue-74839",
            ldflags: "-s -w",
        },
    ];
    let dir = build(&module, "kubernetes-e2e", &builds, progress)?;
    let go = |words: &[&str]| {
        let mut command = Command::new("go");
        command.args(words).current_dir(&module);
        exec::output(command.env("GOFLAGS", "-mod=readonly"))
    };
    // The programs may be cached where the sources are not.
    go(&["mod", "download", "k8s.io/kubernetes"])?;
    let sources = go(&["list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"])?;
    let porter = Path::new(sources.trim()).join("test/images/agnhost/porter");
    Ok(KubernetesTests {
        certificate: porter.join("localhost.crt"),
        key: porter.join("localhost.key"),
        program: dir.join("kubernetes-e2e"),
        boom_server: dir.join("boom-server"),
    })
}

/// Builds helm, or finds it in the cache, and links it into `bin`.
///
/// # Errors
/// As [`kubernetes`].
pub fn helm(progress: &Progress) -> Result<PathBuf> {
    let module = paths::repository().join("hack/helm");
    let builds = [Build {
        output: "helm",
        package: "helm.sh/helm/v3/cmd/helm",
        ldflags: "-s -w",
    }];
    let helm = build(&module, "helm", &builds, progress)?.join("helm");
    relink(&helm, &paths::bin()?.join("helm"))?;
    Ok(helm)
}

/// Builds `cnitool`, libcni's own caller of plugins, or finds it in the cache.
///
/// # Errors
/// As [`kubernetes`].
pub fn cnitool(progress: &Progress) -> Result<PathBuf> {
    let module = paths::repository().join("hack/cnitool");
    let builds = [Build {
        output: "cnitool",
        package: "github.com/containernetworking/cni/cnitool",
        ldflags: "-s -w",
    }];
    Ok(build(&module, "cnitool", &builds, progress)?.join("cnitool"))
}

struct Build<'a> {
    output: &'a str,
    package: &'a str,
    ldflags: &'a str,
}

fn build(module: &Path, name: &str, builds: &[Build<'_>], progress: &Progress) -> Result<PathBuf> {
    exec::require("go", "golang (1.24 or newer; https://go.dev/dl)")?;
    let version = exec::output(Command::new("go").arg("version").current_dir(module))?;
    let key = key(module, builds, &version)?;
    let files: Vec<_> = builds.iter().map(|build| build.output).collect();
    cached(name, &key, &files, progress, |partial| {
        for build in builds
            .iter()
            .filter(|build| !partial.join(build.output).is_file())
        {
            progress.say(format!(
                "building {} (Go; up to 10 minutes when nothing is cached, a minute or two otherwise)",
                build.output
            ));
            // Under another name until it is whole: an interrupted build leaves nothing that looks done.
            let output = partial.join(format!(".{}", build.output));
            let mut command = Command::new("go");
            command
                .args([
                    "build",
                    "-trimpath",
                    "-buildvcs=false",
                    "-ldflags",
                    build.ldflags,
                    "-o",
                ])
                .arg(&output)
                .arg(build.package)
                .current_dir(module)
                .env("CGO_ENABLED", "0")
                .env("GOFLAGS", "-mod=readonly");
            exec::output(&mut command)?;
            fs::rename(&output, partial.join(build.output))?;
        }
        Ok(())
    })
}

/// Cargo, in the repository, as a person starts it. Run by cargo itself we have variables that describe
/// our own package, and build scripts that ask for them (ring's does) would run again each time.
#[must_use]
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(paths::repository());
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// The directory `name/key` of the cache, where `make` has put the files; made when it is not there.
/// What an interrupted `make` left is still there when it is tried again.
pub(crate) fn cached(
    name: &str,
    key: &str,
    files: &[&str],
    progress: &Progress,
    make: impl FnOnce(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let root = paths::cache()?.join(name);
    let dir = root.join(key);
    let complete = |dir: &Path| files.iter().all(|file| dir.join(file).is_file());
    if complete(&dir) {
        return Ok(dir);
    }
    fs::create_dir_all(&root).with_context(|| format!("create {}", root.display()))?;
    let lock = File::create(root.join(".lock")).context("create the build's lock")?;
    if lock.try_lock().is_err() {
        progress.say(format!("waiting for another build of {name}"));
        lock.lock().context("lock the build")?;
    }
    if complete(&dir) {
        return Ok(dir);
    }
    let partial = root.join(format!("{key}.partial"));
    fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
    make(&partial)?;
    fs::rename(&partial, &dir).with_context(|| format!("rename {}", partial.display()))?;
    progress.say(format!("built {name} into {}", dir.display()));
    Ok(dir)
}

/// The hash of everything a build depends on.
fn key(module: &Path, builds: &[Build<'_>], version: &str) -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(version);
    for build in builds {
        for part in [build.output, build.package, build.ldflags] {
            hash.update(part);
            hash.update([0]);
        }
    }
    let mut files = Vec::new();
    sources(module, &mut files)?;
    files.sort();
    for file in files {
        let relative = file.strip_prefix(module).unwrap_or(&file);
        hash.update(relative.to_string_lossy().as_bytes());
        hash.update([0]);
        hash.update(fs::read(&file).with_context(|| format!("read {}", file.display()))?);
    }
    Ok(hex::encode(hash.finalize())
        .get(..16)
        .unwrap_or_default()
        .to_owned())
}

fn sources(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        let extension = path.extension().and_then(|e| e.to_str());
        if path.is_dir() {
            sources(&path, files)?;
        } else if matches!(extension, Some("go" | "mod" | "sum")) {
            files.push(path);
        }
    }
    Ok(())
}

/// Makes `link` point to `target`, whatever it was, without a moment in which it is absent.
pub(crate) fn relink(target: &Path, link: &Path) -> Result<()> {
    if fs::read_link(link).is_ok_and(|old| old == target) {
        return Ok(());
    }
    let Some(dir) = link.parent() else {
        bail!("{} has no directory", link.display())
    };
    fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let partial = link.with_extension(format!("partial-{}", std::process::id()));
    fs::remove_file(&partial).ok();
    std::os::unix::fs::symlink(target, &partial)
        .and_then(|()| fs::rename(&partial, link))
        .with_context(|| format!("link {}", link.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_is_in_the_key() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("go.mod"), "module a").unwrap();
        fs::create_dir(dir.path().join("pause")).unwrap();
        fs::write(dir.path().join("pause/main.go"), "package main").unwrap();
        let builds = |ldflags| {
            [Build {
                output: "a",
                package: ".",
                ldflags,
            }]
        };
        let first = key(dir.path(), &builds("-s"), "go1").unwrap();
        assert_eq!(first, key(dir.path(), &builds("-s"), "go1").unwrap());
        assert_ne!(first, key(dir.path(), &builds("-w"), "go1").unwrap());
        assert_ne!(first, key(dir.path(), &builds("-s"), "go2").unwrap());
        fs::write(dir.path().join("pause/main.go"), "package other").unwrap();
        assert_ne!(first, key(dir.path(), &builds("-s"), "go1").unwrap());
    }
}
