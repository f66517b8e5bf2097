use proptest::prelude::*;

use super::*;

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn crc32c_matches_rfc_3720() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
}

#[test]
fn appended_records_are_found_again_in_order() {
    let dir = dir();
    let path = dir.path().join("state/x.journal");
    let Opened {
        mut journal,
        records,
        recovery,
    } = Journal::open(&path).unwrap();
    assert_eq!((records.len(), recovery), (0, Recovery::Created));
    journal.append(b"one").unwrap();
    journal.append(b"").unwrap();
    journal.append(b"three").unwrap();
    let opened = Journal::open(&path).unwrap();
    assert_eq!(opened.recovery, Recovery::Intact);
    assert_eq!(opened.records, [&b"one"[..], b"", b"three"]);
    let mut journal = opened.journal;
    journal.compact(&[b"only"]).unwrap();
    assert_eq!(journal.appended(), 0);
    journal.append(b"next").unwrap();
    assert_eq!(Journal::open(&path).unwrap().records, [b"only", b"next"]);
}

#[test]
fn a_crash_at_any_byte_keeps_what_was_acknowledged() {
    let dir = dir();
    let path = dir.path().join("x.journal");
    let mut journal = Journal::open(&path).unwrap().journal;
    let payloads: [&[u8]; 3] = [b"first", b"second record", b"third"];
    let mut ends = vec![0_u64];
    for payload in payloads {
        journal.append(payload).unwrap();
        ends.push(journal.length);
    }
    let whole = fs::read(&path).unwrap();
    for cut in 0..=whole.len() {
        fs::write(&path, &whole[..cut]).unwrap();
        let opened = Journal::open(&path).unwrap();
        let complete = ends.iter().filter(|&&end| end <= cut as u64).count() - 1;
        assert_eq!(opened.records, payloads[..complete], "cut at {cut}");
        assert!(
            !matches!(opened.recovery, Recovery::Corrupt { .. }),
            "cut at {cut}"
        );
        // It goes on from there.
        let mut journal = opened.journal;
        journal.append(b"after").unwrap();
        let again = Journal::open(&path).unwrap();
        assert_eq!(again.records.last().unwrap(), b"after");
        assert_eq!(again.recovery, Recovery::Intact);
    }
}

#[test]
fn a_tail_of_zeros_is_an_unfinished_append() {
    let dir = dir();
    let path = dir.path().join("x.journal");
    let mut journal = Journal::open(&path).unwrap().journal;
    journal.append(b"kept").unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.extend_from_slice(&[0; 4096]);
    fs::write(&path, &bytes).unwrap();
    let opened = Journal::open(&path).unwrap();
    assert_eq!(opened.recovery, Recovery::TornTail { bytes: 4096 });
    assert_eq!(opened.records, [b"kept"]);
}

#[test]
fn damage_in_the_middle_sets_the_file_aside_and_keeps_the_rest() {
    let dir = dir();
    let path = dir.path().join("x.journal");
    let mut journal = Journal::open(&path).unwrap().journal;
    for payload in [b"aaaa", b"bbbb", b"cccc"] {
        journal.append(payload).unwrap();
    }
    let whole = fs::read(&path).unwrap();
    for flip in 20..40 {
        let mut bytes = whole.clone();
        bytes[flip] ^= 0x40;
        fs::write(&path, &bytes).unwrap();
        let opened = Journal::open(&path).unwrap();
        assert_eq!(opened.records, [b"aaaa", b"cccc"], "flip at {flip}");
        let Recovery::Corrupt { set_aside, lost } = opened.recovery else {
            panic!("not reported at {flip}");
        };
        assert_eq!(lost, 20);
        assert_eq!(fs::read(&set_aside).unwrap(), bytes);
        assert_eq!(Journal::open(&path).unwrap().recovery, Recovery::Intact);
    }
}

#[test]
fn a_foreign_file_is_set_aside() {
    let dir = dir();
    let path = dir.path().join("x.journal");
    fs::write(&path, b"this is not ours\n").unwrap();
    let opened = Journal::open(&path).unwrap();
    assert!(matches!(opened.recovery, Recovery::Corrupt { .. }));
    assert!(dir.path().join("x.journal.corrupt-1").exists());
    assert!(opened.records.is_empty());
}

#[test]
fn values_travel_as_json_and_unknown_ones_are_counted() {
    let dir = dir();
    let mut journal = Journal::open(dir.path().join("x")).unwrap().journal;
    journal.append_json(&vec![1, 2]).unwrap();
    journal.append(b"{").unwrap();
    journal.compact_json([vec![3]]).unwrap();
    journal.append(b"not json").unwrap();
    let (values, unknown) = Journal::open(journal.path()).unwrap().decode::<Vec<u32>>();
    assert_eq!((values, unknown), (vec![vec![3]], 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is in the file, the journal opens, loses no intact record that stands in it, and
    /// goes on.
    #[test]
    fn any_file_opens_and_keeps_its_intact_records(
        parts in proptest::collection::vec(
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..40).prop_map(Ok),
                proptest::collection::vec(any::<u8>(), 0..40).prop_map(Err),
            ],
            0..8,
        )
    ) {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let path = dir.path().join("x.journal");
        let mut bytes = Vec::new();
        let mut intact = Vec::new();
        for part in parts {
            match part {
                Ok(payload) => {
                    bytes.extend(encode(&path, &payload).unwrap());
                    intact.push(payload);
                }
                Err(garbage) => bytes.extend(garbage),
            }
        }
        fs::write(&path, &bytes).unwrap();
        let mut opened = Journal::open(&path).unwrap();
        prop_assert_eq!(&opened.records, &intact);
        opened.journal.append(b"more").unwrap();
        intact.push(b"more".to_vec());
        let again = Journal::open(&path).unwrap();
        prop_assert_eq!(again.records, intact);
        prop_assert_eq!(again.recovery, Recovery::Intact);
    }
}
