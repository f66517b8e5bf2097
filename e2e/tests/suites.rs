//! The suites, in the order they run; a cluster's tests stand together, and what ends a network ends
//! them.

mod addresses;
mod connectivity;
mod faults;
mod ipam;
mod reboot;
mod refusals;
mod removal;
mod rollout;
mod runtime;
mod security;
mod spoof;
mod upgrade;

use carrick_e2e::fixture::Fixture;

use crate::Suite;

/// Every suite with its cluster.
pub fn all() -> Vec<Suite> {
    vec![
        (Fixture::Previous, "upgrade", upgrade::tests()),
        (Fixture::V4, "v4_connectivity", connectivity::tests()),
        (Fixture::V4, "rollout", rollout::tests()),
        (Fixture::V4, "v4_no_encap", removal::no_encap_tests()),
        (Fixture::V4, "uninstall", removal::uninstall_tests()),
        (Fixture::V6, "v6_connectivity", connectivity::tests()),
        (Fixture::V6, "v6_ipam", ipam::tests()),
        (Fixture::V6, "damage", faults::damage_tests()),
        (Fixture::Dual, "dual_connectivity", connectivity::tests()),
        (Fixture::Dual, "spoof", spoof::tests()),
        (Fixture::Dual, "security", security::tests()),
        (Fixture::Dual, "runtime", runtime::tests()),
        (Fixture::Dual, "refusals", refusals::tests()),
        (Fixture::Dual, "faults", faults::kill_tests()),
        (Fixture::Dual, "absence", faults::absence_tests()),
        (Fixture::Dual, "addresses", addresses::tests()),
        (Fixture::Dual, "removal", removal::deletion_tests()),
        (Fixture::Dual, "dual_no_encap", removal::no_encap_tests()),
        (
            Fixture::Kernel,
            "kernel_connectivity",
            connectivity::tests(),
        ),
        (Fixture::Kernel, "kernel_spoof", spoof::tests()),
        (Fixture::Kernel, "kernel_faults", faults::kernel_tests()),
        (Fixture::Kernel, "kernel_rollout", rollout::tests()),
        (Fixture::Kernel, "kernel_upgrade", upgrade::kernel_tests()),
        (Fixture::Kernel, "kernel_reboot", reboot::tests()),
        (
            Fixture::Kernel,
            "kernel_no_encap",
            removal::no_encap_tests(),
        ),
        (
            Fixture::Mixed,
            "kernel_mixed_connectivity",
            connectivity::tests(),
        ),
    ]
}
