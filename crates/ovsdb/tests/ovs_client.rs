//! The client against a real ovsdb-server.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests say what they expect"
)]

use std::time::Duration;

use carrick_ovsdb::cache::RowChange;
use carrick_ovsdb::client::{Client, Connection, Options, RequestError};
use carrick_ovsdb::monitor::{Missed, MonitorRequest};
use carrick_ovsdb::operation::{
    Columns, Condition, Durability, Function, Mutation, Mutator, Operation, Until,
};
use carrick_ovsdb::rows::{OpenVSwitch, switch_request, table};
use carrick_ovsdb::value::{Datum, NamedUuid};
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

fn row<const N: usize>(columns: [(&str, Datum); N]) -> Columns {
    columns
        .into_iter()
        .map(|(name, datum)| (name.to_owned(), datum))
        .collect()
}

/// A bridge with its local port: what the schema asks for.
fn insert_bridge(name: &str) -> Vec<Operation> {
    let insert = |table: &str, uuid: &str, columns| Operation::Insert {
        table: table.to_owned(),
        row: columns,
        uuid_name: Some(NamedUuid::new(uuid).unwrap()),
    };
    let named = |name| Datum::from(NamedUuid::new(name).unwrap());
    vec![
        insert(
            table::INTERFACE,
            "i",
            row([("name", name.into()), ("type", "internal".into())]),
        ),
        insert(
            table::PORT,
            "p",
            row([("name", name.into()), ("interfaces", named("i"))]),
        ),
        insert(
            table::BRIDGE,
            "b",
            row([("name", name.into()), ("ports", named("p"))]),
        ),
        Operation::Mutate {
            table: table::OPEN_VSWITCH.to_owned(),
            conditions: vec![],
            mutations: vec![Mutation::new("bridges", Mutator::Insert, named("b"))],
        },
    ]
}

fn set_external_id(key: &str, value: &str) -> Operation {
    Operation::Mutate {
        table: table::OPEN_VSWITCH.to_owned(),
        conditions: vec![],
        mutations: vec![
            Mutation::new("external_ids", Mutator::Delete, Datum::set([key])),
            Mutation::new("external_ids", Mutator::Insert, Datum::map([(key, value)])),
        ],
    }
}

#[tokio::test]
async fn every_operation_is_understood_by_the_server() {
    let ovs = database();
    let client = Client::connect(ovs.db_socket()).await.unwrap();
    assert_eq!(
        client.list_databases().await.unwrap(),
        ["Open_vSwitch", "_Server"]
    );
    client.echo().await.unwrap();

    let inserted = client.transact(insert_bridge("br0")).await.unwrap();
    let bridge = inserted[2].uuid.unwrap();
    assert_eq!(ovs.vsctl(&["list-ports", "br0"]).unwrap().trim(), "");
    assert_eq!(
        ovs.vsctl(&["get", "bridge", "br0", "_uuid"])
            .unwrap()
            .trim(),
        bridge.to_string()
    );

    let table = || table::BRIDGE.to_owned();
    let by = || vec![Condition::equal("name", "br0")];
    let keys = Datum::map([("a", "1"), ("b", "2")]);
    let results = client
        .transact(vec![
            Operation::Comment("every operation".to_owned()),
            Operation::Update {
                table: table(),
                conditions: by(),
                row: row([("flood_vlans", Datum::set([1, 2])), ("external_ids", keys)]),
            },
            Operation::Mutate {
                table: table(),
                conditions: by(),
                mutations: vec![
                    Mutation::new("flood_vlans", Mutator::Add, 10),
                    Mutation::new("flood_vlans", Mutator::Multiply, 2),
                    Mutation::new("external_ids", Mutator::Delete, Datum::set(["a"])),
                    Mutation::new("external_ids", Mutator::Insert, Datum::map([("c", "3")])),
                ],
            },
            Operation::Wait {
                timeout: Some(0),
                table: table(),
                conditions: by(),
                columns: vec!["name".to_owned()],
                until: Until::Equal,
                rows: vec![row([("name", "br0".into())])],
            },
            Operation::Select {
                table: table(),
                conditions: vec![Condition {
                    column: "flood_vlans".to_owned(),
                    function: Function::Includes,
                    value: Datum::from(22),
                }],
                columns: vec!["flood_vlans".to_owned(), "external_ids".to_owned()],
            },
            Operation::Commit {
                durability: Durability::Durable,
            },
        ])
        .await
        .unwrap();
    assert_eq!((results[1].count, results[2].count), (1, 1));
    let expected = row([
        ("external_ids", Datum::map([("b", "2"), ("c", "3")])),
        ("flood_vlans", Datum::set([22, 24])),
    ]);
    assert_eq!(results[4].rows, [expected]);

    // Each failure names the operation, and nothing of the transaction stays.
    let refuse = async |operation: Operation| {
        let operations = vec![set_external_id("kept", "no"), operation];
        client
            .transact(operations)
            .await
            .unwrap_err()
            .refused()
            .unwrap()
            .clone()
    };
    assert_eq!(refuse(Operation::Abort).await.error, "aborted");
    assert_eq!(
        refuse(Operation::Assert {
            lock: "nobody".to_owned()
        })
        .await
        .error,
        "not owner"
    );
    let wait = Operation::Wait {
        timeout: Some(0),
        table: table(),
        conditions: by(),
        columns: vec!["name".to_owned()],
        until: Until::Different,
        rows: vec![row([("name", "br0".into())])],
    };
    let refused = refuse(wait).await;
    assert_eq!((refused.index, refused.error.as_str()), (1, "timed out"));
    let double = client.transact(insert_bridge("br0")).await.unwrap_err();
    assert_eq!(double.refused().unwrap().error, "constraint violation");
    assert_eq!(
        ovs.vsctl(&["get", "open", ".", "external_ids"])
            .unwrap()
            .trim(),
        "{}"
    );

    let delete = Operation::Mutate {
        table: table::OPEN_VSWITCH.to_owned(),
        conditions: vec![],
        mutations: vec![Mutation::new("bridges", Mutator::Delete, bridge)],
    };
    client.transact(vec![delete]).await.unwrap();
    assert_eq!(ovs.vsctl(&["list-br"]).unwrap(), "");
}

#[tokio::test]
async fn the_cache_shows_a_transaction_when_its_reply_is_there() {
    let ovs = database();
    let client = Client::connect(ovs.db_socket()).await.unwrap();
    let monitor = client.monitor(switch_request()).await.unwrap();
    for number in 0..200 {
        let value = number.to_string();
        client
            .transact(vec![set_external_id("n", &value)])
            .await
            .unwrap();
        let root = OpenVSwitch::one(&monitor.cache()).unwrap();
        assert_eq!(root.external_ids["n"], value);
    }
}

#[tokio::test]
async fn changes_of_others_come_as_a_stream() {
    let ovs = database();
    let client = Client::connect(ovs.db_socket()).await.unwrap();
    let monitor = client.monitor(switch_request()).await.unwrap();
    let mut changes = monitor.changes();
    ovs.vsctl(&["--no-wait", "add-br", "br1"]).unwrap();
    let set = within("the bridge", changes.next()).await.unwrap();
    let inserted = |table: &str| {
        let of = |change: &&carrick_ovsdb::cache::Change| {
            *change.table == *table && matches!(change.change, RowChange::Insert { .. })
        };
        set.changes.iter().filter(of).count()
    };
    let counts = [table::BRIDGE, table::PORT, table::INTERFACE].map(inserted);
    assert_eq!(counts, [1, 1, 1]);
    ovs.vsctl(&["--no-wait", "del-br", "br1"]).unwrap();
    let gone = |cache: &carrick_ovsdb::cache::Cache| (cache.len(table::BRIDGE) == 0).then_some(());
    within("the bridge to go", monitor.wait_for(gone)).await;
}

#[tokio::test]
async fn a_slow_reader_is_told_that_it_missed_changes() {
    let ovs = database();
    let client = Client::connect(ovs.db_socket()).await.unwrap();
    let monitor = client.monitor(switch_request()).await.unwrap();
    let mut changes = monitor.changes();
    for number in 0..1100 {
        client
            .transact(vec![set_external_id("n", &number.to_string())])
            .await
            .unwrap();
    }
    assert!(matches!(
        changes.next().await,
        Err(Missed::Lagged { updates: 76 })
    ));
    assert!(changes.next().await.is_ok());
}

#[tokio::test]
async fn a_restart_of_the_server_is_survived_and_its_changes_are_seen() {
    let mut ovs = database();
    let client = Client::connect(ovs.db_socket()).await.unwrap();
    let monitor = client.monitor(switch_request()).await.unwrap();
    ovs.vsctl(&["--no-wait", "add-br", "br1", "--", "add-br", "br2"])
        .unwrap();
    let two = |cache: &carrick_ovsdb::cache::Cache| (cache.len(table::BRIDGE) == 2).then_some(());
    within("two bridges", monitor.wait_for(two)).await;
    let mut changes = monitor.changes();

    ovs.stop_ovsdb(nix::sys::signal::Signal::SIGKILL).unwrap();
    let mut connection = client.connection();
    let lost = connection.wait_for(|state| matches!(state, Connection::Disconnected { .. }));
    within("the loss", lost).await.unwrap();
    // The cache stays readable, and a request waits for the server.
    assert_eq!(monitor.cache().len(table::BRIDGE), 2);
    let waiting = client.transact(vec![set_external_id("after", "restart")]);
    let restart = async {
        tokio::task::spawn_blocking(move || {
            ovs.start_ovsdb().unwrap();
            ovs.vsctl(&["--no-wait", "del-br", "br1"]).unwrap();
            ovs
        })
        .await
        .unwrap()
    };
    let (transacted, _ovs) = within("the restart", async { tokio::join!(waiting, restart) }).await;
    transacted.unwrap();
    let one = |cache: &carrick_ovsdb::cache::Cache| {
        let root = OpenVSwitch::one(cache)?;
        (cache.len(table::BRIDGE) == 1 && root.external_ids.contains_key("after")).then_some(())
    };
    within("one bridge", monitor.wait_for(one)).await;
    // Only differences came through the stream: br2's rows were never said to be new.
    let mut deleted = 0;
    while let Ok(Ok(set)) = timeout(Duration::from_millis(10), changes.next()).await {
        for change in &set.changes {
            assert!(
                !matches!(change.change, RowChange::Insert { .. }),
                "{change:?}"
            );
            deleted += usize::from(matches!(change.change, RowChange::Delete { .. }));
        }
    }
    assert_eq!(deleted, 3);
}

#[tokio::test]
async fn a_request_that_was_given_up_is_never_sent() {
    let mut ovs = database();
    let options = Options {
        request_timeout: Duration::from_millis(100),
        ..Options::default()
    };
    let client = Client::connect_with(ovs.db_socket(), options)
        .await
        .unwrap();
    ovs.stop_ovsdb(nix::sys::signal::Signal::SIGTERM).unwrap();
    let mut connection = client.connection();
    let lost = connection.wait_for(|state| matches!(state, Connection::Disconnected { .. }));
    within("the loss", lost).await.unwrap();
    let given_up = client
        .transact(vec![set_external_id("given", "up")])
        .await
        .unwrap_err();
    assert!(
        given_up.to_string().contains("no answer within"),
        "{given_up}"
    );
    ovs.start_ovsdb().unwrap();
    let mut connection = client.connection();
    let back = connection.wait_for(|state| matches!(state, Connection::Connected { .. }));
    within("the connection", back).await.unwrap();
    client
        .transact(vec![set_external_id("second", "try")])
        .await
        .unwrap();
    assert_eq!(
        ovs.vsctl(&["get", "open", ".", "external_ids"])
            .unwrap()
            .trim(),
        "{second=try}"
    );
}

#[tokio::test]
async fn many_requests_at_once_are_matched_to_their_answers() {
    let ovs = database();
    let client = Client::connect(ovs.db_socket()).await.unwrap();
    client.transact(insert_bridge("br0")).await.unwrap();
    let ask = |number: i64| {
        let client = client.clone();
        async move {
            let wanted = Operation::Select {
                table: table::BRIDGE.to_owned(),
                conditions: if number % 2 == 0 {
                    vec![Condition::equal("name", "br0")]
                } else {
                    vec![Condition::equal("name", "none")]
                },
                columns: vec!["name".to_owned()],
            };
            client.transact(vec![wanted]).await.unwrap()[0].rows.len()
        }
    };
    let answers = futures::future::join_all((0..1000).map(ask)).await;
    for (number, rows) in answers.into_iter().enumerate() {
        assert_eq!(rows, usize::from(number % 2 == 0));
    }
}

#[tokio::test]
async fn tables_and_columns_an_older_server_lacks_are_left_out() {
    let ovs = database();
    let client = Client::connect(ovs.db_socket()).await.unwrap();
    let request = MonitorRequest::new()
        .table("Of_tomorrow", ["name"])
        .table(table::OPEN_VSWITCH, ["external_ids", "of_tomorrow"]);
    let monitor = client.monitor(request).await.unwrap();
    client
        .transact(vec![set_external_id("a", "b")])
        .await
        .unwrap();
    assert_eq!(
        OpenVSwitch::one(&monitor.cache()).unwrap().external_ids["a"],
        "b"
    );
    assert_eq!(monitor.cache().len("Of_tomorrow"), 0);
}

#[tokio::test]
async fn a_monitor_that_is_dropped_ends_and_others_go_on() {
    let ovs = database();
    let client = Client::connect(ovs.db_socket()).await.unwrap();
    let first = client.monitor(switch_request()).await.unwrap();
    let second = client.monitor(switch_request()).await.unwrap();
    drop(first);
    for _ in 0..10 {
        client
            .transact(vec![set_external_id("a", "b")])
            .await
            .unwrap();
    }
    assert_eq!(
        OpenVSwitch::one(&second.cache()).unwrap().external_ids["a"],
        "b"
    );
}

#[tokio::test]
async fn a_database_that_is_not_there_is_an_error_that_says_so() {
    let ovs = database();
    let options = Options {
        database: "Nowhere".to_owned(),
        connect_timeout: Duration::from_millis(300),
        ..Options::default()
    };
    let error = Client::connect_with(ovs.db_socket(), options)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("get_schema"), "{error}");
    let options = Options {
        connect_timeout: Duration::from_millis(100),
        ..Options::default()
    };
    let error = Client::connect_with("/nonexistent/db.sock", options)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("No such file"), "{error}");
}

#[tokio::test]
async fn resumption_continues_from_the_last_transaction_on_a_clustered_database() {
    // Only a clustered database keeps a history: `found` is then true and only differences come.
    let ovs = Ovs::empty().unwrap();
    let (file, socket) = (
        ovs.run_dir().join("cluster.db"),
        ovs.run_dir().join("c.sock"),
    );
    let local = format!("unix:{}", ovs.run_dir().join("raft.sock").display());
    let schema = carrick_testkit::ovs::SCHEMA;
    ovs.exec(&[
        "ovsdb-tool",
        "create-cluster",
        file.to_str().unwrap(),
        schema,
        &local,
    ])
    .unwrap();
    let mut server = ovs.command("ovsdb-server");
    server
        .arg(&file)
        .arg(format!("--remote=punix:{}", socket.display()));
    server.arg(format!(
        "--unixctl={}",
        ovs.run_dir().join("c.ctl").display()
    ));
    server
        .args(["-vconsole:off", "-vsyslog:off"])
        .stderr(std::process::Stdio::null());
    let mut server = server.spawn().unwrap();

    let client = Client::connect(&socket).await.unwrap();
    let insert = Operation::Insert {
        table: table::OPEN_VSWITCH.to_owned(),
        row: Columns::new(),
        uuid_name: None,
    };
    client.transact(vec![insert]).await.unwrap();
    let monitor = client.monitor(switch_request()).await.unwrap();
    client
        .transact(vec![set_external_id("a", "1")])
        .await
        .unwrap();
    let before = OpenVSwitch::one(&monitor.cache()).unwrap();
    // The server throws every client out; this one comes back and resumes.
    let control = ovs.run_dir().join("c.ctl");
    let reconnect = [
        "ovs-appctl",
        "-t",
        control.to_str().unwrap(),
        "ovsdb-server/reconnect",
    ];
    let mut connection = client.connection();
    connection.mark_unchanged();
    ovs.exec(&reconnect).unwrap();
    let again = connection.wait_for(|state| {
        matches!(
            state,
            Connection::Connected {
                generation: 2..,
                ..
            }
        )
    });
    within("the second connection", again).await.unwrap();
    client
        .transact(vec![set_external_id("a", "2")])
        .await
        .unwrap();
    let after = OpenVSwitch::one(&monitor.cache()).unwrap();
    assert_eq!(
        (before.uuid, after.external_ids["a"].as_str()),
        (after.uuid, "2")
    );
    server.kill().unwrap();
    server.wait().unwrap();
}

#[tokio::test]
async fn requests_on_a_lost_connection_fail_as_unknown() {
    // A server that takes a request and dies.
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let server = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4096];
        let _ = stream.read(&mut buffer).await.unwrap();
        let schema = br#"{"id":1,"error":null,"result":{"name":"Open_vSwitch","version":"1.0.0","tables":{}}}"#;
        stream.write_all(schema).await.unwrap();
        let _ = stream.read(&mut buffer).await.unwrap();
    });
    let client = Client::connect(&socket).await.unwrap();
    let error = client.echo().await.unwrap_err();
    assert!(matches!(error, RequestError::Disconnected), "{error}");
    server.await.unwrap();
}

#[tokio::test]
async fn a_silent_server_is_probed_and_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let options = Options {
        probe_interval: Duration::from_millis(50),
        ..Options::default()
    };
    let client = Client::start(socket, options);
    let _silent = within("the first", listener.accept()).await.unwrap();
    let _again = within("the second", listener.accept()).await.unwrap();
    let connection = client.connection();
    let Connection::Disconnected { reason } = &*connection.borrow() else {
        panic!("connected")
    };
    assert_eq!(&**reason, "the server is silent");
}

#[tokio::test]
async fn after_a_barrier_the_cache_shows_what_others_committed() {
    let ovs = database();
    let client = Client::connect(ovs.db_socket()).await.unwrap();
    let monitor = client.monitor(switch_request()).await.unwrap();
    for number in 0..20 {
        let value = format!("external_ids:n={number}");
        ovs.vsctl(&["--no-wait", "set", "open", ".", &value])
            .unwrap();
        client.barrier().await.unwrap();
        let root = OpenVSwitch::one(&monitor.cache()).unwrap();
        assert_eq!(root.external_ids["n"], number.to_string());
    }
}
