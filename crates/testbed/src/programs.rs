//! Programs of this machine as files of an image: with the libraries they load, and nothing else.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::archive::Files;
use crate::exec;

/// A program by its name and the Debian package it comes from.
pub type Program<'a> = (&'a str, &'a str);

/// The programs in `bin`, where most expect them, and their libraries where they lie here.
///
/// # Errors
/// When one is not installed, or needs a library that is not.
pub fn collect(programs: &[Program<'_>]) -> Result<Files> {
    let mut files = Files::new();
    for (name, package) in programs {
        let file = exec::find(name, package)?;
        files.extend(libraries(&file)?.into_iter().map(in_image));
        files.insert(format!("bin/{name}"), file);
    }
    Ok(files)
}

/// The extensions of iptables, which it loads by name: what is beside the library that loads them.
///
/// # Errors
/// As [`collect`].
pub fn iptables_extensions() -> Result<Files> {
    let iptables = exec::find("iptables", "iptables")?;
    let libraries = libraries(&iptables)?;
    let loader = libraries
        .iter()
        .find(|path| path.to_string_lossy().contains("libxtables"))
        .and_then(|path| path.canonicalize().ok())
        .with_context(|| format!("{} does not load libxtables", iptables.display()))?;
    let dir = loader.with_file_name("xtables");
    let entries = fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?;
    Ok(entries
        .flatten()
        .map(|entry| in_image(entry.path()))
        .collect())
}

fn in_image(path: PathBuf) -> (String, PathBuf) {
    let name = path.to_string_lossy().trim_start_matches('/').to_owned();
    (name, path)
}

/// What a program loads at its start; a script or a static program loads nothing.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let mut magic = [0; 4];
    let read = File::open(program).and_then(|mut file| file.read_exact(&mut magic));
    read.with_context(|| format!("read {}", program.display()))?;
    if magic != *b"\x7fELF" {
        return Ok(Vec::new());
    }
    parse(&exec::output(Command::new("ldd").arg(program))?)
        .with_context(|| format!("the libraries of {}", program.display()))
}

fn parse(listed: &str) -> Result<Vec<PathBuf>> {
    anyhow::ensure!(!listed.contains("not found"), "{}", listed.trim());
    Ok(listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_comes_with_its_libraries() {
        let files = collect(&[("bash", "bash")]).unwrap();
        assert!(files.contains_key("bin/bash"));
        assert!(files.keys().any(|path| path.contains("libc.so")));
        assert!(files.keys().any(|path| path.contains("ld-linux")));
        assert!(files.keys().all(|path| !path.starts_with('/')));
    }

    #[test]
    fn what_ldd_says_is_read() {
        let listed = "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x7f)\n\t/lib64/ld.so (0x7f)\n";
        let expected = ["/lib/x/libc.so.6", "/lib64/ld.so"].map(PathBuf::from);
        assert_eq!(parse(listed).unwrap(), expected);
        assert!(parse("\tliba.so => not found\n").is_err());
        assert_eq!(
            parse("\tstatically linked\n").unwrap(),
            Vec::<PathBuf>::new()
        );
    }

    #[test]
    fn a_program_that_is_missing_is_named_with_its_package() {
        let error = collect(&[("no-such-program", "some-package")]).unwrap_err();
        assert!(error.to_string().contains("apt-get install some-package"));
    }
}
