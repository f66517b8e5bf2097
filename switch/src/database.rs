//! `conf.db`: created, converted or set aside before ovsdb-server starts.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use serde_json::Value;
use tracing::{info, warn};

use crate::tool::{self, ToolError};

/// The longest schema: that of Open vSwitch 3.1 has 27 KB.
const SCHEMA: u64 = 1 << 20;

/// Makes `conf.db` in the run directory one that this version's ovsdb-server can serve.
///
/// A database of another boot is set aside: it names devices that are gone. So is one that cannot be
/// read. The last one set aside is kept, for people.
pub(crate) async fn prepare(
    run_dir: &Path,
    schema: &Path,
    boot_id: &str,
) -> Result<PathBuf, DatabaseError> {
    let file = run_dir.join("conf.db");
    let mark = run_dir.join("boot-id");
    let fail = |path: &Path| {
        let path = path.to_owned();
        move |source| DatabaseError::File { path, source }
    };
    let same_boot = tokio::fs::read_to_string(&mark)
        .await
        .is_ok_and(|mark| mark == boot_id);
    if file.exists() && !same_boot {
        set_aside(&file, "it is of another boot").map_err(fail(&file))?;
    }
    if file.exists()
        && let Err(error) = convert(&file, schema).await
    {
        set_aside(&file, &error.to_string()).map_err(fail(&file))?;
    }
    if !file.exists() {
        let args = ["create".as_ref(), file.as_os_str(), schema.as_os_str()];
        tool::run("ovsdb-tool", &args)
            .await
            .map_err(|source| DatabaseError::Create {
                path: file.clone(),
                source,
            })?;
        info!(path = %file.display(), "created the database");
    }
    // Last: a database without its mark is of another boot.
    tokio::fs::write(&mark, boot_id)
        .await
        .map_err(fail(&mark))?;
    Ok(file)
}

/// Converts to the schema, whether newer or older.
async fn convert(file: &Path, schema: &Path) -> Result<(), ToolError> {
    // Nearly always: then no process is started while forwarding waits.
    if let (Some(have), Some(want)) = (schema_of(file), identity(schema))
        && have == want
    {
        return Ok(());
    }
    let needs = [
        "needs-conversion".as_ref(),
        file.as_os_str(),
        schema.as_os_str(),
    ];
    if tool::run("ovsdb-tool", &needs).await? == "no" {
        return Ok(());
    }
    let version = |verb: &'static str, path: &Path| {
        let path = path.to_owned();
        async move {
            tool::run("ovsdb-tool", &[verb.as_ref(), path.as_os_str()])
                .await
                .unwrap_or_default()
        }
    };
    let (from, to) = (
        version("db-version", file).await,
        version("schema-version", schema).await,
    );
    let convert = ["convert".as_ref(), file.as_os_str(), schema.as_os_str()];
    tool::run("ovsdb-tool", &convert).await?;
    info!(from, to, "converted the database");
    Ok(())
}

/// A schema's name, version and checksum, which its maintainers change with every other change.
type Identity = [String; 3];

/// The identity of the schema in a schema file; `None` when it has no checksum.
fn identity(file: &Path) -> Option<Identity> {
    let file = File::open(file).ok()?.take(SCHEMA);
    identity_of(&serde_json::from_reader(BufReader::new(file)).ok()?)
}

fn identity_of(schema: &Value) -> Option<Identity> {
    let text = |member: &str| {
        let text = schema.get(member)?.as_str()?;
        (!text.is_empty()).then(|| text.to_owned())
    };
    Some([text("name")?, text("version")?, text("cksum")?])
}

/// The identity of the schema in a database: its first record, `OVSDB JSON <length> <sha1>` on a
/// line and as many bytes of JSON (ovsdb(5), "Standalone Database File Format"). Anything else is
/// for `ovsdb-tool` to judge.
fn schema_of(database: &Path) -> Option<Identity> {
    let mut file = BufReader::new(File::open(database).ok()?.take(SCHEMA));
    let mut line = String::new();
    file.read_line(&mut line).ok()?;
    let length = line.strip_prefix("OVSDB JSON ")?.split(' ').next()?;
    let record = file.take(length.parse().ok()?);
    identity_of(&serde_json::from_reader(record).ok()?)
}

/// Renames a file that is of no use, over the one set aside before.
pub(crate) fn set_aside(file: &Path, why: &str) -> io::Result<()> {
    let mut aside = file.as_os_str().to_owned();
    aside.push(".set-aside");
    warn!(path = %file.display(), aside = %Path::new(&aside).display(), why, "set a file aside");
    std::fs::rename(file, aside)
}

/// Why there is no database.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DatabaseError {
    #[error("cannot use {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot create the database {}", path.display())]
    Create {
        path: PathBuf,
        #[source]
        source: ToolError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_known_by_name_version_and_checksum() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let schema = r#"{"name":"d","version":"1.0.0","cksum":"1 2","tables":{}}"#;
        let file = write("schema", schema);
        let record = format!(
            "OVSDB JSON {} 0a1b\n{schema}\nOVSDB JSON 2 0a1b\n{{}}",
            schema.len()
        );
        let database = write("database", &record);
        assert_eq!(schema_of(&database), identity(&file));
        assert_eq!(identity(&file).unwrap(), ["d", "1.0.0", "1 2"]);
        // Without a checksum, cut, or of another form: the tool is asked.
        assert_eq!(
            identity(&write("bare", r#"{"name":"d","version":"1"}"#)),
            None
        );
        for end in 0..record.find("}}").unwrap() {
            assert_eq!(schema_of(&write("cut", &record[..end])), None, "{end}");
        }
        assert_eq!(schema_of(&write("cluster", "OVSDB CLUSTER 2 0a\n{}")), None);
        assert_eq!(schema_of(&directory.path().join("missing")), None);
    }
}
