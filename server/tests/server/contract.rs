//! The contract of `Partd`: a client of a server over each kind of store, with and without layers.
//!
//! Runs the behaviours of the engine's own contract tests.

#[path = "../../../tests/contract/basics.rs"]
mod basics;
#[path = "../../../tests/contract/batches.rs"]
mod batches;
#[path = "../../../tests/contract/sets.rs"]
mod sets;
#[path = "../../../tests/contract/threads.rs"]
mod threads;

use partd::{Batch, Buffer, Dict, Durability, Key, Partd, Result, SegmentLog, compression};
use partd_server::{Client, Limits, Server};

use crate::common::{Dir, PATIENCE};

/// A client, and the server and directory that must outlive it.
struct Remote {
    client: Client,
    _server: Server,
    _dir: Dir,
}

impl Remote {
    fn of(store: impl Partd + 'static, limits: Limits) -> Remote {
        let dir = Dir::new();
        let options = Server::options().limits(limits).spool(dir.path());
        let server = options.bind(dir.address()).serve(store).unwrap();
        let client = Client::options().timeout(PATIENCE).connect(server.address()).unwrap();
        assert!(client.is_extended());
        Remote { client, _server: server, _dir: dir }
    }
}

impl Partd for Remote {
    fn write(&self, batch: &Batch<'_>, durability: Durability) -> Result<()> {
        self.client.write(batch, durability)
    }
    fn read(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.client.read(keys)
    }
    fn take(&self, keys: &[Key]) -> Result<Vec<Vec<u8>>> {
        self.client.take(keys)
    }
    fn lens(&self, keys: &[Key]) -> Result<Vec<Option<u64>>> {
        self.client.lens(keys)
    }
    fn present(&self, keys: &[Key]) -> Result<Vec<bool>> {
        self.client.present(keys)
    }
    fn keys(&self) -> Result<Vec<Key>> {
        self.client.keys()
    }
    fn sync(&self) -> Result<()> {
        self.client.sync()
    }
    fn check(&self, durability: Durability) -> Result<()> {
        self.client.check(durability)
    }
}

fn small_segments() -> SegmentLog {
    SegmentLog::options().segment_len_bytes(64 << 10).temporary().unwrap()
}

fn remote(store: impl Partd + 'static) -> Remote {
    Remote::of(store, Limits::default())
}

/// Serves a store such that an answer of more than 16 bytes goes through a file.
fn spooling(store: impl Partd + 'static) -> Remote {
    let mut limits = Limits::default();
    limits.answer_bytes = 16;
    Remote::of(store, limits)
}

macro_rules! contract {
    ($($store:ident: $make:expr;)*) => {$(
        mod $store {
            use super::*;
            contract!(@tests $make; basics:
                a_value_is_its_appends_in_order
                a_missing_key_reads_as_empty_and_is_not_contained
                an_empty_batch_does_nothing
                an_empty_value_makes_the_key_exist
                the_empty_key_is_a_key
                any_bytes_can_be_a_key
                keys_are_sorted_and_unique
                get_many_keeps_the_order_and_the_duplicates_of_its_keys
                a_deleted_key_is_gone_and_can_come_back
                pop_returns_and_removes
                pop_of_a_key_twice_in_one_call_returns_it_once
                clear_removes_every_key_and_the_store_stays_usable
                large_values_round_trip
                durable_appends_are_visible_like_plain_ones
                visit_lends_the_values_once
                len_of_is_the_length_of_the_value
                twenty_thousand_keys_round_trip
            );
            contract!(@tests $make; sets:
                the_first_set_wins_and_later_ones_do_nothing
                a_set_replaces_what_was_appended_before
                appends_follow_a_set_and_a_later_set_does_nothing
                a_delete_lets_the_next_set_win_again
                a_pop_and_a_clear_let_the_next_set_win_again
                an_empty_set_counts
                a_set_before_every_append_counts_once
            );
            contract!(@tests $make; batches:
                the_same_key_twice_in_a_batch_is_in_order
                a_mixed_batch_is_applied_in_order
                a_delete_and_an_append_in_one_batch_replace_the_value
                a_clear_in_a_batch_leaves_later_operations_in_effect
                a_prefix_delete_removes_the_keys_with_the_prefix_and_no_other
                a_prefix_delete_in_a_batch_takes_its_place_among_the_operations
                sets_in_a_batch_are_applied_in_order
                a_batch_can_have_very_many_operations
            );
            contract!(@tests $make; threads:
                appends_of_threads_arrive_once_whole_and_in_order_and_readers_see_prefixes
                pops_racing_with_appends_lose_and_double_nothing
                a_batch_is_seen_whole_or_not_at_all
                exactly_one_of_several_racing_sets_wins
            );
        }
    )*};
    (@tests $make:expr; $behaviours:ident: $($behaviour:ident)*) => {$(
        #[test]
        fn $behaviour() {
            let store: Box<dyn Partd> = Box::new($make);
            $behaviours::$behaviour(&store);
        }
    )*};
}

contract! {
    dict: remote(Dict::new());
    segment_log: remote(small_segments());
    buffer_over_segment_log: remote(Buffer::new(Dict::new(), small_segments(), 60 << 10));
    snappy_over_segment_log: remote(compression("snappy", Box::new(small_segments())).unwrap());
    answers_through_files: spooling(small_segments());
    snappy_over_a_client: compression("snappy", Box::new(remote(Dict::new()))).unwrap();
    buffer_over_a_client: Buffer::new(Dict::new(), remote(small_segments()), 60 << 10);
    a_client_over_a_client: remote(remote(Dict::new()));
}

/// Notices behaviours of the engine's contract tests that are missing here.
#[test]
fn every_behaviour_of_the_contract_is_run() {
    let here = include_str!("contract.rs");
    let suite = [
        include_str!("../../../tests/contract/basics.rs"),
        include_str!("../../../tests/contract/batches.rs"),
        include_str!("../../../tests/contract/sets.rs"),
        include_str!("../../../tests/contract/threads.rs"),
    ];
    let names = suite.iter().flat_map(|text| text.lines()).filter_map(|line| {
        line.strip_prefix("pub(crate) fn ").and_then(|rest| rest.split('<').next())
    });
    let missing: Vec<&str> = names.filter(|name| !here.contains(name)).collect();
    assert!(missing.is_empty(), "not run here: {missing:?}");
}
