//! The driver of the bridge's flows against a switch that is started again at the worst moment.

#![allow(clippy::unwrap_used, reason = "tests say what they expect")]

use std::time::Duration;

use carrick_agent::flows::{FlowDriver, FlowError};
use carrick_openflow::{Flow, State};
use carrick_testkit::ovs::{Datapath, Ovs};
use futures::FutureExt as _;
use nix::sys::signal::Signal;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_mins(1);

fn start() -> (Ovs, FlowDriver) {
    let ovs = Ovs::start().unwrap();
    ovs.add_bridge("br-int", Datapath::under_test()).unwrap();
    let flows = FlowDriver::new(ovs.mgmt("br-int"));
    (ovs, flows)
}

fn restart(ovs: &mut Ovs) {
    ovs.stop_vswitchd(Signal::SIGKILL).unwrap();
    ovs.start_vswitchd().unwrap();
}

/// One flow that drops all.
fn target() -> State {
    let mut state = State {
        flows: vec![Flow::default()],
        ..State::default()
    };
    state.canonicalize();
    state
}

fn count(ovs: &Ovs) -> usize {
    let dump = ovs.ofctl(&["--no-stats", "dump-flows", &ovs.target("br-int")]);
    let dump = dump.unwrap();
    // ovs-ofctl prints a header only sometimes.
    dump.lines()
        .filter(|line| line.contains("actions="))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_started_again_between_the_answer_and_the_write_gets_nothing() {
    let (mut ovs, mut flows) = start();
    // The database says "restored", and at once the switch is another.
    let admitted = flows.admit(async || {
        restart(&mut ovs);
        Ok::<_, FlowError>(())
    });
    admitted.await.unwrap();
    assert!(flows.fresh_dump().await.is_err());
    assert!(flows.sync(&target(), Vec::new()).await.is_err());
    assert_eq!(count(&ovs), 0);

    // The same between reading the switch and writing to it.
    timeout(LIMIT, flows.reconnected()).await.unwrap();
    flows.admit(async || Ok::<_, FlowError>(())).await.unwrap();
    assert!(flows.fresh_dump().await.unwrap().is_some());
    restart(&mut ovs);
    timeout(LIMIT, flows.reconnected()).await.unwrap();
    assert!(
        flows.sync(&target(), Vec::new()).await.is_err(),
        "a new session is used"
    );
    let address = "10.0.0.1".parse().unwrap();
    let flushed = flows.flush_connections(&[address].into()).await;
    assert!(flushed.is_err(), "a new session is used");
    assert_eq!(count(&ovs), 0);

    flows.admit(async || Ok::<_, FlowError>(())).await.unwrap();
    assert!(flows.fresh_dump().await.unwrap().is_some());
    assert_eq!(flows.sync(&target(), Vec::new()).await.unwrap(), 1);
    assert_eq!(count(&ovs), 1);
    flows.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_session_is_admitted_once_after_it_stands_and_not_at_all_when_refused() {
    let (mut ovs, mut flows) = start();
    let refused = flows.admit(async || Err::<(), _>(FlowError::Away));
    assert!(refused.await.is_err());
    assert!(flows.fresh_dump().await.is_err());
    // A session that was refused is not told again: the programmer would spin.
    assert!(flows.reconnected().now_or_never().is_none());

    let mut asked = 0;
    for _ in 0..2 {
        let admitted = flows.admit(async || {
            asked += 1;
            Ok::<_, FlowError>(())
        });
        admitted.await.unwrap();
    }
    assert_eq!(asked, 1);
    restart(&mut ovs);
    timeout(LIMIT, flows.reconnected()).await.unwrap();
    let refused = flows.admit(async || Err::<(), _>(FlowError::Away));
    assert!(refused.await.is_err());
    assert!(flows.sync(&target(), Vec::new()).await.is_err());

    // Without a switch nobody is asked.
    ovs.stop_vswitchd(Signal::SIGKILL).unwrap();
    let asked = flows.admit(async || -> Result<(), FlowError> { unreachable!() });
    assert!(matches!(asked.await, Err(FlowError::Away)));
    flows.end().await;
}
