//! Ages and durations as people write them.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Reads "90s", "5m" or "1h30m".
///
/// # Errors
/// Anything else, zero, and negative durations, in words for clap.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a duration such as 30s, 5m or 1h30m");
    let duration: SignedDuration = text.parse().map_err(|_| wrong())?;
    let duration = Duration::try_from(duration).map_err(|_| wrong())?;
    if duration.is_zero() {
        Err(wrong())
    } else {
        Ok(duration)
    }
}

/// How long ago, in at most two units as kubectl writes it: "45s", "5m10s", "3h2m", "2d4h".
pub fn age(since: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(since.as_second()).max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600, seconds / 60);
    let two = |whole: i64, unit: &str, rest: i64, of: &str| {
        if rest == 0 {
            format!("{whole}{unit}")
        } else {
            format!("{whole}{unit}{rest}{of}")
        }
    };
    match seconds {
        0..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        _ => format!("{days}d"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("1h30m"), Ok(Duration::from_mins(90)));
        for wrong in ["", "5", "-3s", "0s", "soon"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn ages_have_at_most_two_units() {
        let ago = |seconds| {
            age(
                Timestamp::UNIX_EPOCH,
                Timestamp::from_second(seconds).unwrap(),
            )
        };
        assert_eq!(
            [45, 130, 700, 11_000, 40_000, 180_000, 900_000].map(ago),
            ["45s", "2m10s", "11m", "3h3m", "11h", "2d2h", "10d"]
        );
        assert_eq!(
            age(Timestamp::from_second(5).unwrap(), Timestamp::UNIX_EPOCH),
            "0s"
        );
    }
}
