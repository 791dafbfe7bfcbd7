//! The mistakes of the system before this one (CONTRACT section 11, by its numbers), and for each what
//! holds it off: tests that would fail, or the design that leaves no room for it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Number, what went wrong, what holds it off, and the tests that would fail.
const MISTAKES: [(u8, &str, &str, &[&str]); 36] = [
    (
        1,
        "a token with a known jti was believed without its signature",
        "tokens are remembered by their whole text",
        &[
            "a_known_jti_does_not_make_a_forged_token_good",
            "wrong_tokens_are_400_with_a_reason",
        ],
    ),
    (
        2,
        "the caller of the service key chose the file it was compared with",
        "the key is mounted, and compared by HMAC",
        &["the_service_key_is_an_administrator"],
    ),
    (
        3,
        "buckets, keys, locks, mappings and cancelling were open to all",
        "they take a role, or say less",
        &[
            "administration_is_for_administrators",
            "everyone_gets_what_the_table_says",
            "a_transient_version_can_be_made_to_stay",
            "requests_for_maintenance_are_kept_in_order",
        ],
    ),
    (
        4,
        "a scroll id carried its creator's rights",
        "cursors are signed for their caller, and each page is filtered anew",
        &["a_cursor_is_its_callers_alone"],
    ),
    (
        5,
        "operators inside identifiers reached the engine",
        "identifiers are parsed, and the engine gets terms",
        &["hostile_identifiers", "fields_escapes_and_phrases"],
    ),
    (
        6,
        "a wrong credential was a 500, and signed parameters could be left out",
        "one type opens them, and what they allow is inside them",
        &[
            "signed_urls_are_good_for_exactly_what_they_say",
            "a_redirection_is_good_for_one_request",
        ],
    ),
    (
        7,
        "abort and complete asked for neither owner nor state",
        "the epoch in the credential and the swap of state.json decide",
        &[
            "invariants_hold_under_random_interleavings",
            "what_was_promised_must_come",
            "everyone_gets_what_the_table_says",
        ],
    ),
    (
        8,
        "formats were evaluated and caches unpickled",
        "formats are parsed by hand, and everything that is kept is JSON",
        &["formats_that_cannot_be_are_refused"],
    ),
    (
        9,
        "issuer and audience were not looked at",
        "a key speaks for its issuer alone",
        &[
            "every_bad_token_has_its_reason",
            "keys_come_from_the_identity_provider",
        ],
    ),
    (
        10,
        "one mutex without an end blocked every upload after a crash",
        "leases end, are one version's, and are given back by their token alone",
        &[
            "an_expired_lease_is_free_and_cannot_be_renewed",
            "a_project_lease_excludes_its_versions_and_the_other_way_round",
            "a_running_upload_locks_its_version_and_no_other",
        ],
    ),
    (
        11,
        "parallel links and permissions were lost",
        "both change by compare-and-swap",
        &[
            "parallel_changes_of_one_set_are_all_kept",
            "in_the_manner_of_the_javascript_client",
        ],
    ),
    (
        12,
        "what failed left locks and purges behind",
        "an upload that cannot bring its files is aborted, by its epoch",
        &[
            "an_upload_in_parts_that_cannot_begin_leaves_nothing",
            "an_interrupted_upload_is_aborted",
            "clients_that_go_away_leave_no_damage",
        ],
    ),
    (
        13,
        "dates to come lived in the memory of workers",
        "deadlines are in S3, where the sweeper finds them",
        &[
            "nothing_acknowledged_is_lost",
            "redis_dies_and_forgets_everything",
            "a_transient_version_expires_and_is_never_linked_to",
        ],
    ),
    (
        14,
        "one bad document deleted good ones, and what vanished stayed",
        "a version is written under its epoch, and what an earlier one had goes",
        &[
            "wrong_metadata_fails_its_job_and_shows_nothing",
            "everything_answers_as_before_after_amnesia",
        ],
    ),
    (
        15,
        "latest was found by text, and revisions came back",
        "the head counts revisions, and only up",
        &[
            "each_of_8_versions_has_one_winner_and_revisions_are_consecutive",
            "invariants_hold_under_random_interleavings",
        ],
    ),
    (
        16,
        "equal files were linked to links, and to what would vanish",
        "links lead to the file that has the bytes, in versions that stay",
        &[
            "in_the_manner_of_the_javascript_client",
            "a_transient_version_expires_and_is_never_linked_to",
            "redirections_in_a_circle_end",
        ],
    ),
    (
        17,
        "the lock of a whole re-indexing counted wrongly and could stay",
        "it is a task, of which one is at work; its job ends it",
        &["the_index_is_seen_and_built_again"],
    ),
    (
        18,
        "the last page promised a next one, and a dry run always said synced",
        "a page looks one document ahead, and a dry run compares",
        &[
            "pages_of_every_order_are_complete_and_end",
            "the_index_is_seen_and_built_again",
        ],
    ),
    (
        19,
        "children of a version came from any project",
        "scopes are terms of a tree, not text",
        &[
            "names_lead_up_and_down",
            "names_tell_of_nothing_that_is_hidden",
        ],
    ),
    (
        20,
        "revisions had 16 bits, and lists ended at 1024",
        "they are 64 bits wide, and lists go on",
        &[
            "pages_of_every_order_are_complete_and_end",
            "ten_thousand_files_in_one_upload",
        ],
    ),
    (
        21,
        "the cleaning of stale projects needed an inventory",
        "it lists the bucket",
        &["what_is_marked_goes_and_what_is_in_use_stays"],
    ),
    (
        22,
        "the URI of the sequences' database lost its port",
        "there is no such database",
        &["a_number_is_given_out_once"],
    ),
    (
        23,
        "the chart set an environment from an undefined value",
        "there is no chart: the operator renders typed resources, and goldens hold them",
        &[],
    ),
    (
        24,
        "pages without a tie-break had gaps and duplicates",
        "pages go by a point in time and a last position",
        &["pages_of_every_order_are_complete_and_end"],
    ),
    (
        25,
        "a missing claim was a 500",
        "claims are a type, and jti is not needed",
        &["every_bad_token_has_its_reason"],
    ),
    (
        26,
        "indexing listed three times and asked twice for each document",
        "the manifest has been checked and says what there is; `make bench` has a row",
        &[],
    ),
    (
        27,
        "one query for each equal file",
        "one query for all of them; `make bench` has a row with 200",
        &[],
    ),
    (
        28,
        "three reads of S3 for every check of permissions",
        "they are remembered for a second; `make bench` has rows of metadata and downloads",
        &[],
    ),
    (
        29,
        "searches ran twice above 10,000 hits",
        "one search counts and answers; `make bench` has a row",
        &[],
    ),
    (
        30,
        "latest built four aggregations of hits",
        "one composite aggregation names the highest revisions, and one search answers",
        &[],
    ),
    (
        31,
        "the status took a second, and probes asked it",
        "probes have routes of their own, and the status pings nobody",
        &[],
    ),
    (
        32,
        "each version waited up to a second for a refresh",
        "the worker refreshes when the version is written; `make bench` has a row",
        &[],
    ),
    (
        33,
        "info and links fetched every document",
        "info reads the head, the state and what differs; links are in the manifest",
        &[],
    ),
    (
        34,
        "schemas were fetched over HTTP",
        "they are part of the configuration",
        &[],
    ),
    (
        35,
        "each worker made models at its start",
        "the operator writes the index template; a server compiles the mapping in memory; `make bench` has a row of the start",
        &[],
    ),
    (
        36,
        "an operation for each key's tag",
        "objects have no tags; deletion takes a thousand keys at once",
        &[],
    ),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|own| own == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn every_mistake_is_held_off_by_what_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files = Vec::new();
    for folder in [
        "api-server/src",
        "core/src",
        "core/tests",
        "standalone/tests",
    ] {
        let folder = root.join(folder);
        if folder.is_dir() {
            sources(&folder, &mut files);
        }
    }
    let mut tests = BTreeSet::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        // A name counts behind the attribute that has it run.
        for part in text
            .split("#[test]")
            .skip(1)
            .chain(text.split("#[tokio::test").skip(1))
        {
            let name = part
                .split("fn ")
                .nth(1)
                .and_then(|rest| rest.split('(').next());
            tests.extend(name.map(str::to_owned));
        }
    }
    for (place, (number, what, design, named)) in MISTAKES.iter().enumerate() {
        assert_eq!(usize::from(*number), place + 1, "{what}");
        assert!(!design.is_empty(), "{what}");
        for test in *named {
            assert!(tests.contains(*test), "{number}: there is no test '{test}'");
        }
    }
}
