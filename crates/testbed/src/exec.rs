//! Runs programs and puts what they say into the error.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a command to its end; its standard output.
pub fn output(command: &mut Command) -> Result<String> {
    command.stdin(Stdio::null());
    let output = command
        .output()
        .with_context(|| format!("start {}", line(command)))?;
    finish(command, &output)
}

/// Runs a command with `input` on its standard input; its standard output.
pub fn output_with_input(command: &mut Command, input: &str) -> Result<String> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .with_context(|| format!("start {}", line(command)))?;
    if let Some(mut pipe) = child.stdin.take() {
        // A child that ends early closes the pipe; its exit code and words tell more than EPIPE.
        let _ = pipe.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .with_context(|| format!("wait for {}", line(command)))?;
    finish(command, &output)
}

fn finish(command: &Command, output: &Output) -> Result<String> {
    let out = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let err = String::from_utf8_lossy(&output.stderr);
        let said = if err.trim().is_empty() {
            out.trim()
        } else {
            err.trim()
        };
        bail!("{}: {}: {said}", line(command), output.status);
    }
    Ok(out.into_owned())
}

/// Starts a machine's first process: in a session of its own and no child of ours, so that it outlives
/// us and leaves no zombie; with nothing of our environment, saying what it says into a log.
pub fn detached(program: &str, log: &Path, arguments: impl FnOnce(&mut Command)) -> Result<()> {
    let file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open {}", log.display()))?;
    let mut command = Command::new("setsid");
    command.args(["--fork", program]);
    arguments(&mut command);
    command
        .env_clear()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("HOME", "/root")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file);
    let status = command
        .status()
        .with_context(|| format!("start {}", line(&command)))?;
    if !status.success() {
        bail!("{}: {status}", line(&command));
    }
    Ok(())
}

/// The command as a person would type it.
pub fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

/// Says which Debian package is missing when a program is.
pub fn require(program: &str, package: &str) -> Result<()> {
    find(program, package).map(drop)
}

/// A program's file; says which Debian package is missing when it is not there.
pub fn find(program: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
        .with_context(|| {
            format!("{program} is not installed: run hack/install, or apt-get install {package}")
        })
}

/// `ip -batch` in a network namespace, or on the host.
pub fn ip_batch(netns: Option<&str>, lines: &[String]) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(netns) = netns {
        command.args(["-n", netns]);
    }
    command.args(["-batch", "-"]);
    let script = lines.join("\n") + "\n";
    output_with_input(&mut command, &script)
        .map(drop)
        .with_context(|| format!("configure links:\n{script}"))
}

/// A command in a network namespace alone.
pub fn in_netns(netns: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{netns}"))
        .arg("--")
        .arg(program);
    command
}

/// Writes a file under a name of its own first, so that no reader sees half of it.
pub fn write(path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
    let partial = path.with_extension("partial");
    std::fs::write(&partial, content)
        .and_then(|()| std::fs::rename(&partial, path))
        .with_context(|| format!("write {}", path.display()))
}
