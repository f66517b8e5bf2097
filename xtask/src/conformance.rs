//! `cargo xtask conformance`: Kubernetes' own tests of the network, on a cluster with Carrick on it.
//!
//! Each case is a process of its own with a log and a report of its own, so that one that hangs or dies
//! takes no other with it, and cases can run side by side.

mod outcome;
mod report;
mod suite;

use std::collections::VecDeque;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use carrick_e2e::bed::{Bed, BedSpec};
use carrick_testbed::{ClusterDns, IpFamily, KubeProxy, NodeKind, Progress, binaries, images};

use outcome::{Outcome, Verdict};
use report::Setting;
use suite::{Case, Suite, Wanted};

/// The cluster.
const NAME: &str = "conformance";
/// How long cluster DNS may take once the network is Ready.
const DNS: Duration = Duration::from_mins(5);
/// How long one case may take; the longest wait ten minutes for one thing.
const CASE: &str = "45m";

/// Arguments of `conformance`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The suite: a file of hack/suites.
    suite: String,
    /// Only cases whose name contains this.
    filter: Option<String>,
    /// Only the cases that the suite names for when there is little time.
    #[arg(long)]
    quick: bool,
    /// Print the cases with what becomes of them, and run none.
    #[arg(long)]
    list: bool,
    /// Nodes with kernels of their own: the kernel datapath.
    #[arg(long)]
    kernel: bool,
    /// Number of nodes, in three zones; some cases want two in each.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u8).range(2..=9))]
    nodes: u8,
    /// Address families: v4, v6 or dual.
    #[arg(long, default_value = "dual")]
    ip_family: IpFamily,
    /// kube-proxy on every node: nftables, iptables or none.
    #[arg(long, default_value = "none")]
    kube_proxy: KubeProxy,
    /// serviceProxy.mode of the Networking.
    #[arg(long, value_enum, default_value = "Full")]
    service_proxy: ServiceProxy,
    /// Cases side by side.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=16))]
    jobs: u8,
    /// Where the report goes [default: docs/conformance/, for a whole suite only].
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Another cluster instead, which is left as it is; a report goes to --report only.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["kernel", "ip_family", "kube_proxy", "service_proxy", "keep"])]
    kubeconfig: Option<PathBuf>,
    /// Leave the cluster (its name is conformance) when all is done.
    #[arg(long)]
    keep: bool,
}

/// `serviceProxy.mode`.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ServiceProxy {
    #[value(name = "Disabled")]
    Disabled,
    #[value(name = "ClusterIP")]
    ClusterIp,
    #[value(name = "Full")]
    Full,
}

impl ServiceProxy {
    fn name(self) -> &'static str {
        match self {
            Self::Disabled => "Disabled",
            Self::ClusterIp => "ClusterIP",
            Self::Full => "Full",
        }
    }

    /// The fields of a Networking that say so.
    fn spec(self) -> &'static str {
        match self {
            Self::Disabled => r#"{"serviceProxy": {"mode": "Disabled"}}"#,
            Self::ClusterIp => r#"{"serviceProxy": {"mode": "ClusterIP"}}"#,
            Self::Full => r#"{"serviceProxy": {"mode": "Full"}}"#,
        }
    }
}

impl Args {
    fn kind(&self) -> NodeKind {
        if self.kernel {
            NodeKind::Kernel
        } else {
            NodeKind::Namespace
        }
    }

    /// Where the report goes, if anywhere.
    fn page(&self) -> Option<PathBuf> {
        let whole = self.filter.is_none() && !self.quick && self.kubeconfig.is_none();
        let default = || {
            let proxy = match self.kube_proxy {
                KubeProxy::None => String::new(),
                mode => format!("-kube-proxy-{mode}"),
            };
            let name = format!("{}-{}{proxy}.md", self.suite, self.datapath());
            crate::root().join("docs/conformance").join(name)
        };
        self.report.clone().or_else(|| whole.then(default))
    }

    fn datapath(&self) -> &'static str {
        match self.kind() {
            NodeKind::Namespace => "userspace",
            NodeKind::Kernel => "kernel",
        }
    }

    fn setting(&self, suite: &Suite) -> Setting {
        let mut command = format!("hack/conformance {}", self.suite);
        if let Some(filter) = &self.filter {
            command.extend([" '", filter, "'"]);
        }
        for (wanted, words) in [
            (self.quick, "--quick".to_owned()),
            (self.kernel, "--kernel".to_owned()),
            (self.nodes != 6, format!("--nodes {}", self.nodes)),
            (
                self.ip_family != IpFamily::Dual,
                format!("--ip-family {}", self.ip_family),
            ),
            (true, format!("--kube-proxy {}", self.kube_proxy)),
            (
                true,
                format!("--service-proxy {}", self.service_proxy.name()),
            ),
        ] {
            if wanted {
                command.extend([" ", &words]);
            }
        }
        let cluster = format!(
            "Kubernetes {}, {} {}, {} datapath, IP family {}, kube-proxy {}, `serviceProxy.mode` {}",
            binaries::KUBERNETES_VERSION,
            self.nodes,
            self.kind(),
            self.datapath(),
            self.ip_family,
            self.kube_proxy,
            self.service_proxy.name()
        );
        let other = "of the user's".to_owned();
        Setting {
            suite: self.suite.clone(),
            about: suite.about.clone(),
            command,
            cluster: if self.kubeconfig.is_some() {
                other
            } else {
                cluster
            },
        }
    }
}

/// Runs a suite; fails when a case does.
pub fn run(args: &Args) -> Result<ExitCode> {
    let progress = Progress::stderr();
    let suite = Suite::read(&args.suite)?;
    let tests = binaries::kubernetes_tests(&progress)?.program;
    let wanted = Wanted {
        nodes: args.kind(),
        filter: args.filter.as_deref(),
        quick: args.quick,
    };
    let cases = suite.select(&all_cases(&tests)?, wanted)?;
    if args.list {
        for case in &cases {
            let fate = case.skipped.as_deref().unwrap_or("run");
            crate::print(format!("{}: {fate}", case.name))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let outcomes = match &args.kubeconfig {
        Some(kubeconfig) => {
            let logs = tempfile::Builder::new()
                .prefix("conformance-")
                .tempdir()?
                .keep();
            run_on(&tests, kubeconfig, &logs, args, cases, &progress)?
        }
        None => on_bed(args, |bed| {
            let logs = bed.logs().join(NAME);
            run_on(&tests, &bed.kubeconfig(), &logs, args, cases, &progress)
        })?,
    };
    if let Some(file) = args.page() {
        let page = report::page(&args.setting(&suite), &outcomes);
        if let Some(directory) = file.parent() {
            fs::create_dir_all(directory)
                .with_context(|| format!("create {}", directory.display()))?;
        }
        fs::write(&file, page).with_context(|| format!("write {}", file.display()))?;
        progress.say(format!("the report is {}", file.display()));
    }
    crate::print(report::counts(&outcomes))?;
    let failed = outcomes
        .iter()
        .any(|outcome| matches!(outcome.verdict, Verdict::Failed(_)));
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The names of all cases the program has.
fn all_cases(tests: &Path) -> Result<Vec<String>> {
    let directory = tempfile::tempdir()?;
    let report = directory.path().join("report.json");
    let output = Command::new(tests)
        .args([
            "--ginkgo.dry-run",
            "--ginkgo.no-color",
            "--provider=skeleton",
        ])
        // Unasked it would look for one; nobody is asked in a run without action.
        .arg("--kubeconfig=/dev/null")
        .arg(format!("--ginkgo.json-report={}", report.display()))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("start {}", tests.display()))?;
    ensure!(
        output.status.success(),
        "the tests cannot be listed: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = fs::read(&report).with_context(|| format!("read {}", report.display()))?;
    outcome::names(&text)
}

/// Starts the cluster, with what the tests expect of one, and takes it down again.
fn on_bed(args: &Args, work: impl FnOnce(&Bed) -> Result<Vec<Outcome>>) -> Result<Vec<Outcome>> {
    let progress = Progress::stderr();
    let kubernetes = binaries::kubernetes(&progress)?;
    let archives = images::kubernetes_tests(&kubernetes, &progress)?;
    let bed = Bed::up(&BedSpec {
        nodes: usize::from(args.nodes),
        family: args.ip_family,
        mask: 24,
        kind: args.kind(),
        more: args.service_proxy.spec(),
        kube_proxy: args.kube_proxy,
        dns: ClusterDns::CoreDns,
        images: archives
            .iter()
            .map(|image| image.path().to_owned())
            .collect(),
        ..BedSpec::new(NAME)
    })?;
    let outcomes = prepare(&bed, &progress)
        .with_context(|| bed.report(NAME))
        .and_then(|()| work(&bed));
    if args.keep {
        progress.say(format!(
            "the cluster is kept: --kubeconfig {}; cargo xtask cluster down --name {NAME}",
            bed.kubeconfig().display()
        ));
        return outcomes;
    }
    let down = bed.down();
    // What failed first is told first.
    let outcomes = outcomes?;
    down.map(|()| outcomes)
}

/// Zones, an API server that reaches pods, and cluster DNS.
fn prepare(bed: &Bed, progress: &Progress) -> Result<()> {
    bed.route_api_server_to_pods()?;
    for (number, node) in bed.node_names().iter().enumerate() {
        let zone = format!("topology.kubernetes.io/zone=zone-{}", number % 3 + 1);
        bed.kubectl(&["label", "--overwrite", "node", node, &zone])?;
    }
    progress.wait("cluster DNS", DNS, || {
        let path = "-o=jsonpath={.status.readyReplicas}/{.spec.replicas}";
        let ready = bed.kubectl(&["get", "deployment", "coredns", "-n", "kube-system", path])?;
        let (here, all) = ready.split_once('/').unwrap_or_default();
        Ok((here != all).then(|| format!("{ready} replicas are ready")))
    })
}

/// Runs the cases on a cluster; those that want it for themselves last.
fn run_on(
    tests: &Path,
    kubeconfig: &Path,
    logs: &Path,
    args: &Args,
    cases: Vec<Case>,
    progress: &Progress,
) -> Result<Vec<Outcome>> {
    fs::create_dir_all(logs).with_context(|| format!("create {}", logs.display()))?;
    progress.say(format!("logs of the cases: {}", logs.display()));
    let runner = Runner {
        tests,
        kubeconfig,
        logs,
        nodes: args.nodes,
        progress,
    };
    let mut outcomes = Vec::new();
    let mut numbered = Vec::new();
    for (number, case) in cases.into_iter().enumerate() {
        match case.skipped {
            Some(reason) => outcomes.push(Outcome {
                name: case.name,
                verdict: Verdict::Skipped(reason),
                time: Duration::ZERO,
            }),
            None => numbered.push((number, case)),
        }
    }
    let (alone, together): (VecDeque<_>, VecDeque<_>) =
        numbered.into_iter().partition(|(_, case)| case.is_alone());
    outcomes.extend(runner.lanes(together, args.jobs)?);
    outcomes.extend(runner.lanes(alone, 1)?);
    outcomes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(outcomes)
}

/// What all cases of a run have in common.
struct Runner<'a> {
    tests: &'a Path,
    kubeconfig: &'a Path,
    logs: &'a Path,
    nodes: u8,
    progress: &'a Progress,
}

impl Runner<'_> {
    /// Runs cases, so many side by side.
    fn lanes(&self, cases: VecDeque<(usize, Case)>, lanes: u8) -> Result<Vec<Outcome>> {
        let queue = Mutex::new(cases);
        let next = || {
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.pop_front()
        };
        let lane = || {
            let mut outcomes = Vec::new();
            while let Some((number, case)) = next() {
                outcomes.push(self.case(number, &case)?);
            }
            anyhow::Ok(outcomes)
        };
        let results: Vec<_> = thread::scope(|scope| {
            let lanes: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
            lanes
                .into_iter()
                .map(|lane| {
                    lane.join()
                        .unwrap_or_else(|_| Err(anyhow!("a lane panicked")))
                })
                .collect()
        });
        let outcomes: Result<Vec<_>> = results.into_iter().collect();
        Ok(outcomes?.concat())
    }

    fn case(&self, number: usize, case: &Case) -> Result<Outcome> {
        let file = |extension: &str| self.logs.join(format!("{number:03}.{extension}"));
        let (log, report) = (file("log"), file("json"));
        let kubectl = carrick_testbed::paths::bin()?.join("kubectl");
        let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut command = Command::new(self.tests);
        command
            .args(["--provider=skeleton", "--ginkgo.v", "--ginkgo.no-color"])
            .arg(format!("--ginkgo.timeout={CASE}"))
            .arg(format!("--ginkgo.focus={}$", escape(&case.name)))
            .arg(format!("--ginkgo.json-report={}", report.display()))
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .arg(format!("--kubectl-path={}", kubectl.display()))
            .arg(format!("--num-nodes={}", self.nodes))
            .current_dir(self.logs)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let status = command
            .status()
            .with_context(|| format!("start {}", self.tests.display()))?;
        // The report tells more than the exit code. Without one, there is the log.
        let mut outcome = fs::read(&report)
            .context("read the report")
            .and_then(|text| outcome::outcome(&text, &case.name))
            .unwrap_or_else(|error| Outcome {
                name: case.name.clone(),
                verdict: Verdict::Failed(format!("the tests ended with {status}: {error:#}")),
                time: Duration::ZERO,
            });
        if let Verdict::Failed(said) = &mut outcome.verdict {
            // Reports are for other machines too.
            for (path, name) in [
                (kubectl.as_path(), "kubectl"),
                (self.kubeconfig, "kubeconfig"),
            ] {
                *said = said.replace(&path.display().to_string(), name);
            }
        }
        let word = match &outcome.verdict {
            Verdict::Passed => "passed ".to_owned(),
            Verdict::Skipped(_) => "skipped".to_owned(),
            Verdict::Failed(_) => format!("FAILED ({})", log.display()),
        };
        let seconds = outcome.time.as_secs_f64();
        self.progress
            .say(format!("{word} {seconds:6.1} s  {}", case.name));
        Ok(outcome)
    }
}

/// A name as a regular expression that matches it alone (RE2 syntax).
fn escape(name: &str) -> String {
    let mut escaped = String::new();
    for character in name.chars() {
        if r"\.+*?()|[]{}^$".contains(character) {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &[&str]) -> Args {
        let words = std::iter::once("conformance").chain(words.iter().copied());
        Cli::try_parse_from(words).unwrap().args
    }

    #[test]
    fn a_name_is_no_expression() {
        assert_eq!(
            escape("[sig-network] DNS (a.b|c)?"),
            r"\[sig-network\] DNS \(a\.b\|c\)\?"
        );
    }

    #[test]
    fn only_a_whole_suite_has_a_report_of_its_own() {
        let name = |words: &[&str]| {
            let page = args(words).page()?;
            Some(page.file_name()?.to_str()?.to_owned())
        };
        let whole = name(&["services", "--kernel"]).unwrap();
        assert_eq!(whole, "services-kernel.md");
        let beside = name(&["services", "--kube-proxy", "nftables"]).unwrap();
        assert_eq!(beside, "services-userspace-kube-proxy-nftables.md");
        assert_eq!(name(&["services", "hairpin"]), None);
        assert_eq!(name(&["services", "--quick"]), None);
        assert_eq!(
            name(&["services", "--quick", "--report", "x.md"]).unwrap(),
            "x.md"
        );
        assert_eq!(name(&["services", "--kubeconfig", "a"]), None);
    }
}
