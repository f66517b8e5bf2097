//! The fuzz targets' inputs on a stable compiler: the corpus as it is, and a bounded number of
//! inputs made from it. Which ones does not change from run to run.

use std::fs;
use std::path::Path;

/// Inputs made from the corpus.
const MADE: usize = 3000;
/// The longest input made.
const LONGEST: usize = 4096;

/// Gives `check` each file of the target's corpus, then inputs made from them.
pub fn replay(target: &str, mut check: impl FnMut(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|directory| directory.join("fuzz/corpus").join(target))
        .find(|directory| directory.exists())
        .expect("the target's corpus");
    let mut files: Vec<_> = fs::read_dir(&corpus)
        .expect("read the corpus")
        .map(|entry| entry.expect("read the corpus").path())
        .collect();
    files.sort();
    let inputs: Vec<Vec<u8>> = files
        .iter()
        .map(|file| fs::read(file).expect("read an input"))
        .collect();
    assert!(!inputs.is_empty(), "{} is empty", corpus.display());
    for input in &inputs {
        check(input);
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..MADE {
        check(&random.mutated(&inputs));
    }
}

/// Marsaglia's xorshift: no randomness that matters.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % (bound.max(1) as u64)).expect("less than the bound")
    }

    fn byte(&mut self) -> u8 {
        // Values that lengths, counts and brackets turn on are likelier than others.
        const EDGES: &[u8] = &[
            0, 1, 7, 8, 0x7f, 0x80, 0xff, b'"', b'[', b']', b'{', b'}', b',', b'(', b')',
        ];
        if self.below(2) == 0 {
            EDGES[self.below(EDGES.len())]
        } else {
            u8::try_from(self.below(256)).expect("a byte")
        }
    }

    /// One of the inputs, changed in some places.
    fn mutated(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = inputs[self.below(inputs.len())].clone();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, self.byte()),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 => {
                    // A piece of another input.
                    let other = &inputs[self.below(inputs.len())];
                    let start = self.below(other.len() + 1);
                    let end = start + self.below((other.len() - start).min(64) + 1);
                    bytes.splice(at..at, other[start..end].iter().copied());
                }
                4 => {
                    // A piece of its own, twice.
                    let end = at + self.below((bytes.len() - at).min(64) + 1);
                    let piece = bytes[at..end].to_vec();
                    bytes.splice(at..at, piece);
                }
                _ if at < bytes.len() => bytes[at] = self.byte(),
                _ => {}
            }
        }
        bytes.truncate(LONGEST);
        bytes
    }
}
