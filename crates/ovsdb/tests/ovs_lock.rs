//! Locks between clients of a real ovsdb-server, and requests that are given up.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

use std::time::Duration;

use carrick_ovsdb::client::{Client, Options, RequestError, TransactError};
use carrick_ovsdb::operation::{Columns, Operation, Until};
use carrick_ovsdb::rows::table;
use carrick_ovsdb::value::Datum;
use carrick_testkit::ovs::Ovs;
use tokio::time::timeout;

const DEADLINE: Duration = Duration::from_secs(20);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

fn database() -> Ovs {
    let ovs = Ovs::start_database().unwrap();
    ovs.vsctl(&["--no-wait", "init"]).unwrap();
    ovs
}

fn asserted() -> Vec<Operation> {
    let lock = "writer".to_owned();
    vec![
        Operation::Assert { lock },
        Operation::Comment("only by the holder".into()),
    ]
}

#[tokio::test]
async fn one_holds_a_lock_at_a_time_and_only_its_transactions_pass() {
    let ovs = database();
    let first = Client::connect(ovs.db_socket()).await.unwrap();
    let second = Client::connect(ovs.db_socket()).await.unwrap();
    let held = first.lock("writer").await.unwrap();
    within("the first to hold it", held.held()).await;
    let waiting = second.lock("writer").await.unwrap();
    assert_eq!((held.is_held(), waiting.is_held()), (true, false));
    first.transact(asserted()).await.unwrap();
    let refused = second.transact(asserted()).await.unwrap_err();
    assert_eq!(refused.refused().unwrap().error, "not owner");
    // Twice by the same client is an error that leaves the first as it is.
    let twice = first.lock("writer").await.unwrap_err();
    assert!(matches!(twice, RequestError::Refused { .. }), "{twice:?}");
    assert!(held.is_held());
    first.transact(asserted()).await.unwrap();

    drop(held);
    within("the second to hold it", waiting.held()).await;
    second.transact(asserted()).await.unwrap();
    let stolen = first.steal("writer").await.unwrap();
    within("the thief to hold it", stolen.held()).await;
    within("the robbed to hear of it", waiting.lost()).await;
    assert!(second.transact(asserted()).await.is_err());
    assert_eq!((stolen.name(), waiting.name()), ("writer", "writer"));
}

#[tokio::test]
async fn a_lock_is_asked_for_again_after_a_restart_of_the_server() {
    let mut ovs = database();
    let client = Client::connect(ovs.db_socket()).await.unwrap();
    let lock = client.lock("writer").await.unwrap();
    within("the lock", lock.held()).await;
    ovs.stop_ovsdb(nix::sys::signal::Signal::SIGKILL).unwrap();
    within("the loss", lock.lost()).await;
    ovs.start_ovsdb().unwrap();
    within("the lock again", lock.held()).await;
    client.transact(asserted()).await.unwrap();
}

/// A transaction that waits for what never comes.
fn endless() -> Vec<Operation> {
    let never = Columns::from([("cur_cfg".to_owned(), Datum::from(-1))]);
    vec![Operation::Wait {
        timeout: None,
        table: table::OPEN_VSWITCH.to_owned(),
        conditions: Vec::new(),
        columns: vec!["cur_cfg".to_owned()],
        until: Until::Equal,
        rows: vec![never],
    }]
}

#[tokio::test]
async fn requests_given_up_are_cancelled_and_free_their_places() {
    let ovs = database();
    let options = Options {
        request_timeout: Duration::from_millis(50),
        ..Options::default()
    };
    let client = Client::connect_with(ovs.db_socket(), options)
        .await
        .unwrap();
    // More than may be under way at once: were their places kept, no further request were taken.
    for _ in 0..6 {
        let waiting = (0..64).map(|_| client.transact(endless()));
        for result in futures::future::join_all(waiting).await {
            let timed_out = matches!(
                result,
                Err(TransactError::Request(RequestError::TimedOut { .. }))
            );
            assert!(timed_out, "{result:?}");
        }
    }
    let deadline = async { while client.echo().await.is_err() {} };
    within("an answer", deadline).await;
}
