//! carrickctl.

use std::process::ExitCode;

use carrick_cli::exit::Exit;
use carrick_cli::output::say;

fn main() -> ExitCode {
    // Without a provider every connection fails, which then says so.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            say(&format!("carrickctl: cannot start: {error}"));
            return Exit::Failed.into();
        }
    };
    let exit = runtime.block_on(carrick_cli::run::run(std::env::args_os()));
    // A blocked read of standard input must not hold the process.
    runtime.shutdown_background();
    exit.into()
}
