//! `conf.db`: created, converted or set aside before ovsdb-server starts.

use std::io;
use std::path::{Path, PathBuf};

use tracing::{info, warn};

use crate::tool::{self, ToolError};

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
