//! Our plugin binary and configuration list on the host.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The plugin's file name and type.
pub const PLUGIN: &str = "carrick-cni";
/// The network's name in the list.
const NETWORK: &str = "carrick";
/// What another network's file is called while it is set aside; runtimes read none of that name.
const ASIDE: &str = ".carrick-set-aside";
/// Endings runtimes read (libcni `ConfFiles`).
const ENDINGS: [&str; 3] = ["conf", "conflist", "json"];

/// Why the files could not be installed or removed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {}", path.display())]
pub struct InstallError {
    /// What was attempted, as a verb.
    pub operation: &'static str,
    /// The file.
    pub path: PathBuf,
    /// The system's answer.
    #[source]
    pub source: io::Error,
}

fn fail(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    let path = path.to_owned();
    move |source| InstallError {
        operation,
        path,
        source,
    }
}

/// What happens to other networks' files in the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherNetworks {
    /// They are renamed, and given back by [`uninstall`].
    SetAside,
    /// They are left alone: whose name sorts first wins.
    Leave,
}

/// Where the files go, as this process sees the host's directories.
#[derive(Debug, Clone)]
pub struct Places {
    /// The plugin in our image.
    pub plugin: PathBuf,
    /// The host's directory of plugins.
    pub bin_dir: PathBuf,
    /// The host's directory of network configurations.
    pub conf_dir: PathBuf,
    /// Name of our list in it.
    pub conf_file: String,
}

/// What [`install`] changed; empty when all was in place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed {
    /// Files written.
    pub written: Vec<PathBuf>,
    /// Other networks' files set aside, by their own names.
    pub set_aside: Vec<PathBuf>,
}

/// Installs the plugin, then the list (a runtime starts using the network when it sees the list).
/// Files are replaced atomically and only when they differ; plugins that others appended to our
/// list (a mesh's) are kept. Also mends what somebody removed, so it may be called again and again.
pub fn install(places: &Places, others: OtherNetworks) -> Result<Installed, InstallError> {
    let mut installed = Installed::default();
    let plugin = fs::read(&places.plugin).map_err(fail("reading", &places.plugin))?;
    let binary = places.bin_dir.join(PLUGIN);
    if write_if_different(&binary, &plugin, 0o755)? {
        installed.written.push(binary);
    }
    let list = places.conf_dir.join(&places.conf_file);
    let existing = fs::read(&list).ok();
    if write_if_different(&list, conflist(existing.as_deref()).as_bytes(), 0o644)? {
        installed.written.push(list.clone());
    }
    if others == OtherNetworks::SetAside {
        for path in configurations(&places.conf_dir)? {
            if path != list {
                let aside = with_suffix(&path, ASIDE);
                fs::rename(&path, &aside).map_err(fail("setting aside", &path))?;
                installed.set_aside.push(path);
            }
        }
    }
    Ok(installed)
}

/// Gives other networks' files back and removes ours. Collects errors and goes on.
pub fn uninstall(places: &Places) -> Vec<InstallError> {
    let mut errors = Vec::new();
    let mut remove = |path: &Path| match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            errors.push(fail("removing", path)(error));
        }
        _ => {}
    };
    remove(&places.conf_dir.join(&places.conf_file));
    remove(&places.bin_dir.join(PLUGIN));
    let entries = match fs::read_dir(&places.conf_dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return errors,
        Err(error) => {
            errors.push(fail("reading", &places.conf_dir)(error));
            return errors;
        }
    };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let Some(name) = name.strip_suffix(ASIDE) else {
            continue;
        };
        let back = places.conf_dir.join(name);
        // Its owner wrote it anew meanwhile: that one is newer.
        let result = if back.exists() {
            fs::remove_file(&path)
        } else {
            fs::rename(&path, &back)
        };
        if let Err(error) = result {
            errors.push(fail("giving back", &back)(error));
        }
    }
    errors
}

/// Our list: version 1.0.0 for runtimes that know no `cniVersions` (containerd 1.6 fails every ADD
/// of a 1.1.0 list), 1.1.0 for those that do. Keeps what others appended to `existing`.
pub fn conflist(existing: Option<&[u8]>) -> String {
    let mut plugins = vec![json!({"type": PLUGIN, "capabilities": {"portMappings": true}})];
    let list: Option<Value> = existing.and_then(|bytes| serde_json::from_slice(bytes).ok());
    if let Some(list) = list
        && list.get("name").and_then(Value::as_str) == Some(NETWORK)
        && let Some(present) = list.get("plugins").and_then(Value::as_array)
    {
        let foreign = |plugin: &&Value| {
            plugin
                .get("type")
                .and_then(Value::as_str)
                .is_some_and(|kind| kind != PLUGIN)
        };
        plugins.extend(present.iter().filter(foreign).cloned());
    }
    let list = json!({
        "cniVersion": "1.0.0",
        "cniVersions": ["1.0.0", "1.1.0"],
        "name": NETWORK,
        "plugins": plugins,
    });
    format!("{list:#}\n")
}

/// Files in `directory` a runtime would read.
fn configurations(directory: &Path) -> Result<Vec<PathBuf>, InstallError> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .map_err(fail("reading", directory))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|e| ENDINGS.iter().any(|ending| e == *ending))
        })
        .collect();
    paths.sort();
    Ok(paths)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn write_if_different(path: &Path, bytes: &[u8], mode: u32) -> Result<bool, InstallError> {
    let same_mode =
        fs::metadata(path).is_ok_and(|found| found.permissions().mode() & 0o777 == mode);
    if same_mode && fs::read(path).is_ok_and(|found| found == bytes) {
        return Ok(false);
    }
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(fail("creating", directory))?;
    }
    // In the same directory, with an ending no runtime reads; a running plugin keeps its own file.
    let temporary = with_suffix(path, ".carrick-tmp");
    let written = (|| {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)?;
        file.write_all(bytes)?;
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(fail("writing", path))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(dir: &Path) -> Places {
        let places = Places {
            plugin: dir.join("image/carrick-cni"),
            bin_dir: dir.join("bin"),
            conf_dir: dir.join("net.d"),
            conf_file: "05-carrick.conflist".to_owned(),
        };
        fs::create_dir_all(dir.join("image")).unwrap();
        fs::create_dir_all(&places.conf_dir).unwrap();
        fs::write(&places.plugin, b"ELF").unwrap();
        places
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_list_is_written_as_old_and_new_runtimes_need_it() {
        let list: Value = serde_json::from_str(&conflist(None)).unwrap();
        assert_eq!(
            list,
            json!({
                "cniVersion": "1.0.0",
                "cniVersions": ["1.0.0", "1.1.0"],
                "name": "carrick",
                "plugins": [{"type": "carrick-cni", "capabilities": {"portMappings": true}}],
            })
        );
    }

    #[test]
    fn installed_files_are_mended_and_taken_back() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        fs::write(places.conf_dir.join("10-other.conflist"), "other").unwrap();
        fs::write(places.conf_dir.join("20-more.conf"), "more").unwrap();
        fs::write(places.conf_dir.join("README"), "text").unwrap();

        let first = install(&places, OtherNetworks::SetAside).unwrap();
        assert_eq!((first.written.len(), first.set_aside.len()), (2, 2));
        assert_eq!(
            install(&places, OtherNetworks::SetAside).unwrap(),
            Installed::default()
        );
        let mode = fs::metadata(places.bin_dir.join(PLUGIN))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o755);
        assert_eq!(
            names(&places.conf_dir),
            [
                "05-carrick.conflist",
                "10-other.conflist.carrick-set-aside",
                "20-more.conf.carrick-set-aside",
                "README",
            ]
        );
        // Removed by somebody: it comes back. A new binary replaces the old one.
        fs::remove_file(places.conf_dir.join("05-carrick.conflist")).unwrap();
        fs::write(&places.plugin, b"ELF2").unwrap();
        assert_eq!(
            install(&places, OtherNetworks::SetAside)
                .unwrap()
                .written
                .len(),
            2
        );
        assert_eq!(fs::read(places.bin_dir.join(PLUGIN)).unwrap(), b"ELF2");
        // One of them was written anew by its owner meanwhile.
        fs::write(places.conf_dir.join("20-more.conf"), "newer").unwrap();

        assert!(uninstall(&places).is_empty());
        assert_eq!(
            names(&places.conf_dir),
            ["10-other.conflist", "20-more.conf", "README"]
        );
        assert_eq!(
            fs::read(places.conf_dir.join("20-more.conf")).unwrap(),
            b"newer"
        );
        assert_eq!(names(&places.bin_dir), Vec::<String>::new());
        assert!(uninstall(&places).is_empty());
    }

    #[test]
    fn others_are_left_when_not_exclusive() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        fs::write(places.conf_dir.join("10-other.conflist"), "other").unwrap();
        assert!(
            install(&places, OtherNetworks::Leave)
                .unwrap()
                .set_aside
                .is_empty()
        );
        assert_eq!(
            names(&places.conf_dir),
            ["05-carrick.conflist", "10-other.conflist"]
        );
    }

    #[test]
    fn a_mesh_keeps_its_plugin_in_our_list() {
        let dir = tempfile::tempdir().unwrap();
        let places = places(dir.path());
        install(&places, OtherNetworks::SetAside).unwrap();
        let path = places.conf_dir.join(&places.conf_file);
        let mut list: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        list["plugins"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "mesh-cni", "x": 1}));
        fs::write(&path, list.to_string()).unwrap();
        install(&places, OtherNetworks::SetAside).unwrap();
        let list: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(list["plugins"][0]["type"], "carrick-cni");
        assert_eq!(list["plugins"][1], json!({"type": "mesh-cni", "x": 1}));
        fs::write(&path, "{ broken").unwrap();
        install(&places, OtherNetworks::SetAside).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), conflist(None));
    }
}
