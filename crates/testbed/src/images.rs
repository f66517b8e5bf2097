//! Images of Kubernetes' parts and of its tests' pods, made from scratch: programs built here, and programs
//! of this machine with their libraries. There is no registry to take the published ones from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

use crate::archive::{Archive, Files, Scratch};
use crate::binaries::{self, Binaries};
use crate::exec;
use crate::paths;
use crate::programs::{self, Program};
use crate::progress::Progress;

/// What kube-proxy calls. Under all names it knows iptables by, because each is a program's name.
const FILTERS: [Program<'_>; 8] = [
    ("iptables", "iptables"),
    ("iptables-restore", "iptables"),
    ("iptables-save", "iptables"),
    ("ip6tables", "iptables"),
    ("ip6tables-restore", "iptables"),
    ("ip6tables-save", "iptables"),
    ("nft", "nftables"),
    ("conntrack", "conntrack"),
];

/// What Kubernetes' tests run in their pods.
const TOOLS: [Program<'_>; 28] = [
    ("awk", "mawk"),
    ("bash", "bash"),
    ("cat", "coreutils"),
    ("conntrack", "conntrack"),
    ("curl", "curl"),
    ("date", "coreutils"),
    ("dd", "coreutils"),
    ("dig", "bind9-dnsutils"),
    ("false", "coreutils"),
    ("getent", "libc-bin"),
    ("grep", "grep"),
    ("head", "coreutils"),
    ("hostname", "hostname"),
    ("ip", "iproute2"),
    ("ls", "coreutils"),
    ("lsmod", "kmod"),
    ("nc", "netcat-openbsd"),
    ("nslookup", "bind9-dnsutils"),
    ("rm", "coreutils"),
    ("sed", "sed"),
    ("seq", "coreutils"),
    ("sleep", "coreutils"),
    ("ss", "iproute2"),
    ("tail", "coreutils"),
    ("timeout", "coreutils"),
    ("wc", "coreutils"),
    ("wget", "wget"),
    ("which", "debianutils"),
];

/// Names that Kubernetes v1.34.4 gives the images of its tests (`test/utils/image/manifest.go`), and one image
/// with all that is wanted of them: agnhost, and a shell with the usual tools.
const TOOLBOX: [&str; 5] = [
    "registry.k8s.io/e2e-test-images/agnhost:2.56",
    "registry.k8s.io/e2e-test-images/busybox:1.37.0-1",
    "registry.k8s.io/e2e-test-images/jessie-dnsutils:1.7",
    "registry.k8s.io/e2e-test-images/nginx:1.14-4",
    "registry.k8s.io/build-image/distroless-iptables:v0.7.14",
];

/// The image of the sandbox container.
///
/// # Errors
/// When the cache cannot be written.
pub fn pause(binaries: &Binaries) -> Result<Archive> {
    let image = Image {
        name: "pause",
        aliases: &[],
        command: &[],
        files: Files::from([file("usr/bin/pause", &binaries.dir().join("pause"))]),
        entrypoint: "/usr/bin/pause",
    };
    image.linked(binaries.dir())
}

/// The image of the usual test pod.
///
/// # Errors
/// When the cache cannot be written.
pub fn agnhost(binaries: &Binaries) -> Result<Archive> {
    let image = Image {
        name: "agnhost",
        aliases: &[],
        command: &["pause"],
        files: Files::from([file("usr/bin/agnhost", &binaries.dir().join("agnhost"))]),
        entrypoint: "/usr/bin/agnhost",
    };
    image.linked(binaries.dir())
}

/// kube-proxy, with the programs it calls.
///
/// # Errors
/// When it does not build, or a program is not installed.
pub fn kube_proxy(progress: &Progress) -> Result<Archive> {
    let mut files = programs::collect(&FILTERS)?;
    files.extend(programs::iptables_extensions()?);
    // Without names of protocols nft prints numbers, and kube-proxy takes its own elements for strange ones.
    files.extend([file(
        "etc/protocols",
        &system_file("/etc/protocols", "netbase")?,
    )]);
    let program = binaries::kube_proxy(progress)?;
    // Where kubeadm's image has it.
    files.extend([file("usr/local/bin/kube-proxy", &program)]);
    let image = Image {
        name: "kube-proxy",
        aliases: &[],
        command: &[],
        files,
        entrypoint: "/usr/local/bin/kube-proxy",
    };
    image.write()
}

/// CoreDNS.
///
/// # Errors
/// When it does not build.
pub fn coredns(progress: &Progress) -> Result<Archive> {
    let image = Image {
        name: "coredns",
        aliases: &[],
        command: &[],
        files: Files::from([file("coredns", &binaries::coredns(progress)?)]),
        entrypoint: "/coredns",
    };
    image.write()
}

/// The images of Kubernetes' own tests of the network, under the names these have for them.
///
/// # Errors
/// When something of them does not build, or a program is not installed.
pub fn kubernetes_tests(binaries: &Binaries, progress: &Progress) -> Result<Vec<Archive>> {
    let tests = binaries::kubernetes_tests(progress)?;
    let mut files = programs::collect(&TOOLS)?;
    files.extend(programs::collect(&[("dash", "dash")])?);
    files.extend([
        file("bin/sh", &exec::find("dash", "dash")?),
        // Where the published image has them: tests call them by their paths.
        file("agnhost", &binaries.dir().join("agnhost")),
        file("coredns", &binaries::coredns(progress)?),
        file("localhost.crt", &tests.certificate),
        file("localhost.key", &tests.key),
        // The published image's wget tries once.
        file(
            "etc/wgetrc",
            &paths::repository().join("hack/kubernetes-e2e/wgetrc"),
        ),
    ]);
    let tools = Image {
        name: "kubernetes-tests",
        aliases: &TOOLBOX,
        command: &["pause"],
        files,
        entrypoint: "/agnhost",
    };
    let boom = Image {
        name: "boom-server",
        aliases: &["registry.k8s.io/e2e-test-images/regression-issue-74839:1.2"],
        command: &[],
        files: Files::from([file("boom-server", &tests.boom_server)]),
        entrypoint: "/boom-server",
    };
    let pause = Image {
        name: "pause",
        aliases: &["registry.k8s.io/pause:3.10.1"],
        command: &[],
        files: Files::from([file("usr/bin/pause", &binaries.dir().join("pause"))]),
        entrypoint: "/usr/bin/pause",
    };
    [tools, boom, pause].iter().map(Image::write).collect()
}

/// A file of this machine; says which Debian package is missing when it is not there.
fn system_file(path: &str, package: &str) -> Result<PathBuf> {
    let file = Path::new(path);
    ensure!(
        file.is_file(),
        "{path} is missing: run hack/install, or apt-get install {package}"
    );
    Ok(file.to_owned())
}

fn file(path: &str, source: &Path) -> (String, PathBuf) {
    (path.to_owned(), source.to_owned())
}

struct Image<'a> {
    name: &'a str,
    aliases: &'a [&'a str],
    files: Files,
    entrypoint: &'a str,
    command: &'a [&'a str],
}

impl Image<'_> {
    fn write(&self) -> Result<Archive> {
        Scratch {
            repository: &format!("localhost/{}", self.name),
            aliases: self.aliases,
            files: self.files.clone(),
            entrypoint: &[self.entrypoint],
            command: self.command,
            labels: BTreeMap::from([("org.opencontainers.image.title", self.name)]),
        }
        .write(&paths::cache()?.join("images"))
    }

    /// Made once per build: a link in its directory says which archive belongs to it.
    fn linked(&self, build: &Path) -> Result<Archive> {
        let link = build.join(format!("{}.image", self.name));
        if let Ok(archive) = Archive::open(&link) {
            return Ok(archive);
        }
        let archive = self.write()?;
        binaries::relink(archive.path(), &link)?;
        Ok(archive)
    }
}
