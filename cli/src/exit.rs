//! Exit codes: the contract with scripts.

use std::process::ExitCode;

/// What a command ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It is done, and what was looked at is well.
    Well,
    /// It could not be done: usage, kubeconfig, connection, permission.
    Failed,
    /// It was done, and what was looked at is not well (or not in the time given).
    Unhealthy,
    /// Somebody pressed Ctrl-C.
    Interrupted,
}

impl Exit {
    /// The number.
    pub const fn code(self) -> u8 {
        match self {
            Self::Well => 0,
            Self::Failed => 1,
            Self::Unhealthy => 2,
            Self::Interrupted => 130,
        }
    }

    /// Well or Unhealthy.
    pub fn healthy(yes: bool) -> Self {
        if yes { Self::Well } else { Self::Unhealthy }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// For `--help` and the reference.
pub const HELP: &str = "Exit codes:
  0    done, and what was looked at is well
  1    not done: usage, kubeconfig, connection to the API server, permission
  2    done, and something is not well: a problem in `status`, a failed test in `check`, or not
       within --timeout
  130  interrupted";
