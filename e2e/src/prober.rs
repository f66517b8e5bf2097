//! A stream of pings that runs while something else breaks, and tells what was lost.

use anyhow::{Context, Result, ensure};

use crate::bed::Bed;
use crate::pod::Pod;

/// Pings from one pod to each address of another, ten a second, until dropped or asked.
pub struct Prober<'a> {
    bed: &'a Bed,
    node: String,
    /// Process ids on the node (in its own process namespace) and the files they write.
    pings: Vec<(String, String)>,
}

impl<'a> Prober<'a> {
    /// Starts the pings and waits until each address has answered once.
    pub fn start(bed: &'a Bed, from: &Pod, to: &Pod) -> Result<Self> {
        let mut prober = Self {
            bed,
            node: from.node.clone(),
            pings: Vec::new(),
        };
        for address in &to.addresses {
            from.run(bed, &crate::pod::ping(*address))?;
            let file = format!("/run/carrick-e2e-prober-{}-{address}", from.netns);
            let script = format!(
                "setsid ip netns exec {} ping -n -i 0.1 -W 2 {address} > {file} 2>&1 < /dev/null & echo $!",
                from.netns
            );
            let pid = bed.node(&from.node, &script)?.trim().to_owned();
            prober.pings.push((pid, file));
        }
        Ok(prober)
    }

    /// Stops the pings; fails when any was lost.
    pub fn none_lost(self) -> Result<()> {
        self.lost_at_most(0)
    }

    /// Stops the pings; fails when more than `most` were lost to one address.
    pub fn lost_at_most(mut self, most: u64) -> Result<()> {
        for (pid, file) in std::mem::take(&mut self.pings) {
            let script = format!(
                "kill -INT {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.05; done; cat {file}; rm -f {file}"
            );
            let out = self.bed.node(&self.node, &script)?;
            let summary = out
                .lines()
                .find(|line| line.contains("packets transmitted"))
                .with_context(|| format!("ping ended without a summary:\n{out}"))?;
            let numbers: Vec<u64> = summary
                .split_whitespace()
                .filter_map(|word| word.parse().ok())
                .collect();
            let (sent, received) = (
                numbers.first().copied().unwrap_or_default(),
                numbers.get(1).copied().unwrap_or_default(),
            );
            // The last request may still be on its way when the ping is stopped.
            ensure!(
                sent > 0 && received + 1 + most >= sent,
                "packets were lost: {summary}"
            );
        }
        Ok(())
    }
}

impl Drop for Prober<'_> {
    fn drop(&mut self) {
        for (pid, file) in &self.pings {
            let _ = self
                .bed
                .node(&self.node, &format!("kill -INT {pid}; rm -f {file}"));
        }
    }
}
