//! What a process holds and has spent (proc(5)).

use std::time::Duration;

/// Resident memory (`VmRSS`) in megabytes.
pub fn resident(pid: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next());
    kilobytes.unwrap().parse::<f64>().unwrap() * 1024.0 / 1e6
}

/// Time on processors, of the process and of children that have ended (nft, iptables-restore).
pub fn processor(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    // utime, stime, cutime and cstime are fields 14 to 17; what follows the name begins with the third.
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(4)
        .map(|field| field.parse::<u64>().unwrap())
        .sum();
    // USER_HZ is 100 on every architecture that Linux serves today.
    Duration::from_millis(ticks * 10)
}
