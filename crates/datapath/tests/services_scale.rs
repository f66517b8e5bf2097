//! What many Services cost: memory that stays, and work for one change.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::items_after_statements,
    clippy::format_push_string,
    reason = "tests say what they expect"
)]

mod support;

use carrick_datapath::IdLedger;
use carrick_datapath::services::{EndpointSlice, Protocol, Proxy};
use support::Families;
use support::services::{endpoint, full, service, slice, view};

/// A hundredth of the largest cluster: 5,000 Services of 50 endpoints each are 5,000 and 250,000.
const SERVICES: u16 = 50;
const ENDPOINTS: u16 = 50;

fn endpoints(service: u16, count: u16) -> EndpointSlice {
    let ports = [("http", Protocol::Tcp, 8080)];
    let of = |n: u16| {
        let address = format!("10.{}.{}.{}", 64 + service / 256, service % 256, n);
        endpoint(&address, &format!("node{n}"))
    };
    let name = format!("service-{service}");
    slice(
        &format!("{name}-x7b2k"),
        &name,
        &ports,
        (1..=count).map(of).collect(),
    )
}

fn fill(proxy: &mut Proxy, services: u16) {
    for n in 0..services {
        let address = format!("10.96.{}.{}", n / 256, n % 256);
        let name = format!("service-{n}");
        proxy.upsert_service(service(&name, &[&address], &[("http", Protocol::Tcp, 80)]));
        proxy.upsert_slice(&endpoints(n, ENDPOINTS));
    }
}

fn drain(proxy: &mut Proxy, ledger: &mut IdLedger) -> usize {
    let mut changes = 0;
    while let Some(batch) = proxy.next_batch(ledger, 100).unwrap() {
        changes += batch.bundle.len();
        batch.release(ledger);
    }
    changes
}

/// All that stays, ledger and names included, is below 200 bytes an endpoint: 50 MB for 250,000.
#[test]
fn what_stays_is_small() {
    let mut kept = None;
    let cost = allocation_counter::measure(|| {
        let mut proxy = Proxy::new(view(1, Families::V4), full());
        let mut ledger = IdLedger::default();
        fill(&mut proxy, SERVICES);
        assert_eq!(drain(&mut proxy, &mut ledger), 2 * usize::from(SERVICES));
        kept = Some((proxy, ledger));
    });
    drop(kept);
    let endpoints = u64::from(SERVICES * ENDPOINTS);
    let each = u64::try_from(cost.bytes_current).unwrap() / endpoints;
    eprintln!(
        "{each} bytes stay for each of {endpoints} endpoints; at most {} at once",
        cost.bytes_max
    );
    assert!(each < 200, "{each} bytes for each endpoint");
}

/// One endpoint more costs the same among few Services and among many.
#[test]
fn a_change_does_not_grow_with_the_cluster() {
    let cost = |services: u16| {
        let mut proxy = Proxy::new(view(1, Families::V4), full());
        let mut ledger = IdLedger::default();
        fill(&mut proxy, services);
        drain(&mut proxy, &mut ledger);
        allocation_counter::measure(|| {
            proxy.upsert_slice(&endpoints(3, ENDPOINTS + 1));
            assert_eq!(drain(&mut proxy, &mut ledger), 1);
        })
        .bytes_total
    };
    let (few, many) = (cost(5), cost(200));
    assert!(
        many < few + few / 10,
        "{few} bytes among 5 Services, {many} among 200"
    );
}
