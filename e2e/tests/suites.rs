//! The suites, in the order they run; a cluster's tests stand together, and what ends a network ends
//! them.

mod absence;
mod addresses;
mod connectivity;
mod faults;
mod ipam;
mod policy;
mod reboot;
mod refusals;
mod removal;
mod rollout;
mod runtime;
mod security;
mod services;
mod spoof;
mod under_traffic;
mod upgrade;

use carrick_e2e::fixture::Fixture;

use crate::{Pace, Suite};

/// Every suite with its cluster.
pub fn all() -> Vec<Suite> {
    use Fixture::{Dual, Kernel, Mixed, Previous, V4, V6};
    use Pace::{Quick, Slow};
    vec![
        (Previous, Quick, "upgrade", upgrade::tests()),
        (V4, Quick, "v4_connectivity", connectivity::tests()),
        (V4, Quick, "v4_services", services::tests()),
        (V4, Quick, "rollout", rollout::failure_tests()),
        (V4, Slow, "rollout_order", rollout::order_tests()),
        (V4, Quick, "v4_no_encap", removal::no_encap_tests()),
        (V4, Quick, "uninstall", removal::uninstall_tests()),
        (V6, Quick, "v6_connectivity", connectivity::tests()),
        (V6, Quick, "v6_ipam", ipam::tests()),
        (V6, Quick, "damage", faults::damage_tests()),
        (Dual, Quick, "dual_connectivity", connectivity::tests()),
        (Dual, Quick, "dual_policy", policy::tests()),
        (Dual, Quick, "spoof", spoof::tests()),
        (Dual, Quick, "security", security::tests()),
        (Dual, Quick, "runtime", runtime::tests()),
        (Dual, Quick, "refusals", refusals::tests()),
        (Dual, Quick, "faults", faults::kill_tests()),
        (Dual, Quick, "absence", absence::tests()),
        (Dual, Slow, "long_absence", absence::long_tests()),
        (Dual, Quick, "chaos", under_traffic::chaos_tests()),
        (Dual, Slow, "under_traffic", under_traffic::tests()),
        (Dual, Slow, "endurance", under_traffic::endurance_tests()),
        (Dual, Quick, "addresses", addresses::tests()),
        (Dual, Slow, "many_pods", addresses::many_pods_tests()),
        (Dual, Quick, "removal", removal::deletion_tests()),
        (Dual, Quick, "dual_no_encap", removal::no_encap_tests()),
        (Kernel, Quick, "kernel_connectivity", connectivity::tests()),
        (Kernel, Quick, "kernel_services", services::short_tests()),
        (Kernel, Quick, "kernel_policy", policy::brief()),
        (Kernel, Slow, "kernel_policy", policy::rest()),
        (Kernel, Slow, "kernel_spoof", spoof::tests()),
        (Kernel, Slow, "kernel_faults", faults::kernel_tests()),
        (
            Kernel,
            Slow,
            "kernel_under_traffic",
            under_traffic::kernel_tests(),
        ),
        (Kernel, Slow, "kernel_rollout", rollout::failure_tests()),
        (Kernel, Slow, "kernel_rollout_order", rollout::order_tests()),
        (Kernel, Slow, "kernel_upgrade", upgrade::kernel_tests()),
        (Kernel, Quick, "kernel_reboot", reboot::tests()),
        (
            Kernel,
            Slow,
            "kernel_foreign_commit",
            reboot::foreign_commit_tests(),
        ),
        (Kernel, Slow, "kernel_no_encap", removal::no_encap_tests()),
        (Mixed, Slow, "kernel_mixed", connectivity::tests()),
    ]
}
