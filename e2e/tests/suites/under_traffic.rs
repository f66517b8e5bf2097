//! Single faults under continuous traffic: the events of `cargo xtask chaos`, each in a test of its name, with
//! all checks after each.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use carrick_e2e::bed::Bed;
use carrick_e2e::chaos::act::crowd;
use carrick_e2e::chaos::check;
use carrick_e2e::chaos::event::{Event, Lasting, Part, StateFile, Strike};
use carrick_e2e::chaos::run::{self, Plan};
use carrick_e2e::chaos::scene::{Scene, play, shape_of};
use carrick_e2e::wait;

use crate::Test;

/// On every kind of node.
pub fn tests() -> Vec<Test> {
    vec![
        ("kubernetes_own_parts_may_die", kubernetes),
        ("two_parts_may_die_together", pairs),
        ("a_paused_etcd_stops_no_packet", etcd),
        (
            "a_second_agent_is_refused_by_the_name_of_the_first",
            second_agent,
        ),
        (
            "state_that_is_damaged_or_of_another_boot_changes_no_flow",
            state,
        ),
        (
            "a_controllers_certificate_is_exchanged_unnoticed",
            certificate,
        ),
        (
            "an_agent_short_of_file_descriptors_costs_nothing",
            descriptors,
        ),
        (
            "a_pod_deleted_behind_the_agent_leaves_nothing",
            deleted_behind,
        ),
        ("a_fabric_that_loses_or_shortens_packets_heals", fabric),
        ("policies_that_come_and_go_change_no_verdict", policies),
    ]
}

/// What only nodes with kernels of their own have.
pub fn kernel_tests() -> Vec<Test> {
    let mut all = tests();
    all.extend([
        (
            "a_full_disk_costs_nothing",
            full_disk as fn(&Bed) -> Result<()>,
        ),
        ("a_slow_link_and_a_clock_that_jumps_cost_nothing", slow),
        ("an_agent_out_of_memory_costs_nothing", memory),
        ("a_power_failure_concerns_its_node_only", power),
    ]);
    all
}

/// What comes by chance, the same each time: what one change breaks is not blamed on another.
pub fn chaos_tests() -> Vec<Test> {
    vec![("two_minutes_of_the_chaos_of_seed_1", chaos)]
}

fn chaos(bed: &Bed) -> Result<()> {
    let plan = Plan {
        time: Duration::from_mins(2),
        seed: 1,
        shape: shape_of(bed),
    };
    run::on(bed, &plan)
}

/// Minutes long: `hack/soak 1 endurance` runs them, and `hack/test slow`.
pub fn endurance_tests() -> Vec<Test> {
    vec![
        ("five_minutes_without_an_api_server", five_minutes),
        ("three_hundred_pods_at_once", three_hundred),
    ]
}

fn strikes(bed: &Bed, strikes: &[Strike]) -> Result<()> {
    let events: Vec<Event> = strikes.iter().copied().map(Event::Strike).collect();
    play(bed, "under-traffic", &events).map(drop)
}

/// Each begins and ends before the next.
fn lasts(bed: &Bed, all: &[Lasting]) -> Result<()> {
    let events: Vec<Event> = all
        .iter()
        .flat_map(|lasting| [Event::Begin(*lasting), Event::End(*lasting)])
        .collect();
    play(bed, "under-traffic", &events).map(drop)
}

fn kubernetes(bed: &Bed) -> Result<()> {
    strikes(
        bed,
        &[
            Strike::Kill(Part::Kubelet(0)),
            Strike::Kill(Part::Runtime(0)),
        ],
    )
}

fn policies(bed: &Bed) -> Result<()> {
    strikes(bed, &[Strike::Policies(100), Strike::Policies(10)])
}

fn pairs(bed: &Bed) -> Result<()> {
    strikes(
        bed,
        &[
            Strike::KillTwo(Part::Agent(0), Part::ControllerLeader),
            Strike::KillTwo(Part::Operator, Part::ControllerStandby),
            Strike::KillTwo(Part::Agent(1), Part::Vswitchd(1)),
            Strike::KillTwo(Part::Vswitchd(0), Part::Database(0)),
            Strike::KillTwo(Part::Kubelet(0), Part::Agent(0)),
        ],
    )
}

fn etcd(bed: &Bed) -> Result<()> {
    lasts(bed, &[Lasting::EtcdPaused])
}

fn second_agent(bed: &Bed) -> Result<()> {
    strikes(bed, &[Strike::SecondAgent(0)])
}

fn state(bed: &Bed) -> Result<()> {
    strikes(
        bed,
        &[
            Strike::OtherBoot(0, StateFile::Ledger),
            Strike::OtherBoot(0, StateFile::Commit),
            Strike::Corrupt(0, StateFile::Attachments),
            Strike::Corrupt(1, StateFile::Ledger),
        ],
    )
}

fn certificate(bed: &Bed) -> Result<()> {
    strikes(bed, &[Strike::Rotate])
}

fn descriptors(bed: &Bed) -> Result<()> {
    lasts(bed, &[Lasting::FewDescriptors(0)])
}

fn deleted_behind(bed: &Bed) -> Result<()> {
    strikes(bed, &[Strike::DeleteBehind(0)])
}

fn fabric(bed: &Bed) -> Result<()> {
    lasts(
        bed,
        &[Lasting::LowMtu(1), Lasting::Lossy(1), Lasting::LinkCut(1)],
    )
}

fn full_disk(bed: &Bed) -> Result<()> {
    lasts(bed, &[Lasting::DiskFull(1)])
}

fn slow(bed: &Bed) -> Result<()> {
    let slow = Lasting::Slow(1);
    let events = [
        Event::Begin(slow),
        Event::End(slow),
        Event::Strike(Strike::ClockJump(1, 3600)),
        Event::Strike(Strike::ClockJump(0, -3600)),
    ];
    play(bed, "under-traffic", &events).map(drop)
}

fn memory(bed: &Bed) -> Result<()> {
    strikes(bed, &[Strike::OutOfMemory(0)])
}

fn power(bed: &Bed) -> Result<()> {
    strikes(bed, &[Strike::PowerOff(1)])
}

/// The long outage of the design: nothing that runs may notice.
fn five_minutes(bed: &Bed) -> Result<()> {
    let mut scene = Scene::start(bed, "under-traffic")?;
    let away = Lasting::ApiServerAway;
    let played = (|| {
        scene.play(Event::Begin(away))?;
        let begun = Instant::now();
        scene.play(Event::Strike(Strike::Kill(Part::Agent(0))))?;
        let time = Duration::from_mins(5);
        wait::until("5 minutes without an API server", time * 2, || {
            Ok(begun.elapsed() >= time)
        })?;
        scene.play(Event::End(away)).map(drop)
    })();
    scene.mend();
    played.and(scene.stop())
}

/// A hundred on each of three nodes, all created in one moment.
fn three_hundred(bed: &Bed) -> Result<()> {
    let namespace = bed.namespace("endurance")?;
    let places = 0..bed.node_names().len();
    ensure!(
        places.len() == 3,
        "three hundred are a hundred on each of three nodes"
    );
    std::thread::scope(|scope| -> Result<()> {
        let each: Vec<_> = places
            .map(|place| {
                let namespace = &namespace;
                scope.spawn(move || crowd(bed, namespace, place, 100))
            })
            .collect();
        for one in each {
            one.join()
                .map_err(|_| anyhow::anyhow!("a thread panicked"))??;
        }
        Ok(())
    })?;
    check::nothing_leaks(bed)
}
