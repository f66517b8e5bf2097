//! Prints the figures: `cargo run --release -p carrick-openflow --features bench --example bench --
//! [SOCKET]`. With a bridge's management socket it also measures the switch, whose flows it deletes.

#![expect(clippy::print_stdout, reason = "a program that prints")]

use carrick_openflow::bench;
use carrick_openflow::connection::{Config, Connection};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut figures = bench::codec()?;
    if let Some(socket) = std::env::args_os().nth(1) {
        let (connection, _packets, _notices, driver) = Connection::new(Config::new(&socket));
        let driver = tokio::spawn(driver.run());
        connection.connected().await?;
        let scratch = std::env::temp_dir();
        figures.extend(bench::switch(&connection, socket.as_ref(), &scratch, 100_000).await?);
        drop(connection);
        driver.await?;
    }
    for figure in figures {
        let peer = figure
            .peer
            .map_or("-".to_owned(), |peer| format!("{peer:.1}"));
        println!(
            "{:48} {:8} ours {:10.2} peer {:>10} ratio {:8.2} goal {:6} {}",
            figure.name,
            figure.unit,
            figure.ours,
            peer,
            figure.ratio,
            figure.goal,
            if figure.met() { "met" } else { "missed" }
        );
    }
    Ok(())
}
