//! The suites, in the order they run; a cluster's tests stand together. `hack/test` leaves out those
//! whose name begins with `soak`: `hack/soak` runs them.

mod addresses;
mod connectivity;
mod faults;
mod reboot;
mod refusals;
mod removal;
mod security;
mod spoof;

use carrick_e2e::fixture::Fixture;

use crate::Suite;

/// Every suite with its cluster.
pub fn all() -> Vec<Suite> {
    vec![
        (Fixture::V4, "v4_connectivity", connectivity::tests()),
        (Fixture::V6, "v6_connectivity", connectivity::tests()),
        (Fixture::Dual, "dual_connectivity", connectivity::tests()),
        (Fixture::Dual, "spoof", spoof::tests()),
        (Fixture::Dual, "security", security::tests()),
        (Fixture::Dual, "refusals", refusals::tests()),
        (Fixture::Dual, "faults", faults::tests()),
        (Fixture::Dual, "soak_faults", faults::soak_tests()),
        (Fixture::Dual, "soak_addresses", addresses::tests()),
        (Fixture::Dual, "soak_removal", removal::deletion_tests()),
        (Fixture::V4, "soak_uninstall", removal::uninstall_tests()),
        (
            Fixture::Kernel,
            "kernel_connectivity",
            connectivity::tests(),
        ),
        (Fixture::Kernel, "kernel_spoof", spoof::tests()),
        (Fixture::Kernel, "kernel_faults", faults::tests()),
        (Fixture::Kernel, "kernel_reboot", reboot::tests()),
    ]
}
