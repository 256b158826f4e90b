//! The contract of `Partd`: one suite that every store and layer runs.
//!
//! To add a store, add one line at the end of this file: a name, and an expression that creates an
//! empty one. All of them are boxed, so that the suite is compiled once.

mod basics;
mod batches;
mod sets;
mod threads;

use std::sync::Arc;

#[cfg(feature = "zlib")]
use partd::Zlib;
use partd::{Buffer, Dict, Encode, MemoryStore, Partd, Scoped, SegmentLog};

/// Runs each behaviour of the suite as a separate test on the value of `$make`.
macro_rules! contract {
    ($($(#[$meta:meta])* $store:ident: $make:expr;)*) => {$(
        $(#[$meta])*
        mod $store {
            use super::*;
            contract!(@few_values $make);
            contract!(@many_values $make);
        }
    )*};
    // For a store that is slow per value.
    (@slow $($(#[$meta:meta])* $store:ident: $make:expr;)*) => {$(
        $(#[$meta])*
        mod $store {
            use super::*;
            contract!(@few_values $make);
        }
    )*};
    (@few_values $make:expr) => {
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
        );
        contract!(@tests $make; sets:
            the_first_set_wins_and_later_ones_do_nothing
            a_set_replaces_what_was_appended_before
            appends_follow_a_set_and_a_later_set_does_nothing
            a_delete_lets_the_next_set_win_again
            a_pop_and_a_clear_let_the_next_set_win_again
            an_empty_set_counts
        );
        contract!(@tests $make; batches:
            the_same_key_twice_in_a_batch_is_in_order
            a_mixed_batch_is_applied_in_order
            a_delete_and_an_append_in_one_batch_replace_the_value
            a_clear_in_a_batch_leaves_later_operations_in_effect
            a_prefix_delete_removes_the_keys_with_the_prefix_and_no_other
            a_prefix_delete_in_a_batch_takes_its_place_among_the_operations
            sets_in_a_batch_are_applied_in_order
        );
        contract!(@tests $make; threads:
            appends_of_threads_arrive_once_whole_and_in_order_and_readers_see_prefixes
            pops_racing_with_appends_lose_and_double_nothing
            a_batch_is_seen_whole_or_not_at_all
            exactly_one_of_several_racing_sets_wins
        );
    };
    (@many_values $make:expr) => {
        contract!(@tests $make; basics:
            len_of_is_the_length_of_the_value
            twenty_thousand_keys_round_trip
        );
        contract!(@tests $make; sets: a_set_before_every_append_counts_once);
        contract!(@tests $make; batches: a_batch_can_have_very_many_operations);
    };
    (@tests $make:expr; $behaviours:ident: $($behaviour:ident)*) => {$(
        #[test]
        fn $behaviour() {
            let store: Box<dyn Partd> = Box::new($make);
            $behaviours::$behaviour(&store);
        }
    )*};
}

/// A buffer with a memory limit.
fn buffer(limit_bytes: u64) -> Buffer<Dict, Dict> {
    Buffer::new(Dict::new(), Dict::new(), limit_bytes)
}

/// A segment log of many small segments.
fn small_segments() -> SegmentLog {
    SegmentLog::options().segment_len_bytes(64 << 10).temporary().unwrap()
}

/// A small buffer in front of a segment log, so that it fills up quickly.
#[cfg(any(
    feature = "zlib",
    feature = "snappy",
    feature = "lz4",
    feature = "bz2",
    feature = "blosc",
    feature = "zstd"
))]
fn small_buffer() -> Buffer<Dict, SegmentLog> {
    Buffer::new(Dict::new(), small_segments(), 60 << 10)
}

/// A compressing layer, at a fast level if that matters: at its default level, Bz2 takes megabytes
/// for each value.
#[cfg(any(
    feature = "zlib",
    feature = "snappy",
    feature = "lz4",
    feature = "bz2",
    feature = "blosc",
    feature = "zstd"
))]
fn compressed(name: &str, below: impl Partd + 'static) -> Box<dyn Partd> {
    partd::compression(name, Box::new(below)).unwrap()
}

/// A layer made of closures, which stores every byte inverted.
fn inverting(below: impl Partd) -> impl Partd {
    let invert = |bytes: &[u8]| Ok(bytes.iter().map(|byte| !byte).collect());
    Encode::from_fns(invert, invert, |parts| Ok(parts.concat()), below)
}

contract! {
    segment_log: SegmentLog::temporary().unwrap();
    segment_log_of_small_segments: small_segments();
    buffer_over_segment_log: Buffer::new(Dict::new(), small_segments(), 60 << 10);
    dict: Dict::new();
    boxed_dyn: Box::new(Dict::new()) as Box<dyn Partd>;
    arc: Arc::new(Dict::new());
    scoped: Scoped::new(Dict::new(), ("job", 7));
    scoped_segment_log: Scoped::new(small_segments(), "scope");
    buffer_over_scoped: Buffer::new(Dict::new(), Scoped::new(Dict::new(), 1), 60 << 10);
    buffer_without_memory: buffer(0);
    buffer_of_40_kib: buffer(40 << 10);
    buffer_of_200_kib: buffer(200 << 10);
    buffer_of_1_gib: buffer(1 << 30);
    buffer_of_boxed_dyn: Buffer::new(
        Box::new(Dict::new()) as Box<dyn MemoryStore>,
        Box::new(buffer(4096)) as Box<dyn Partd>,
        60 << 10,
    );
    closures: inverting(Dict::new());
    closures_over_segment_log: inverting(small_segments());
    buffer_over_closures: Buffer::new(Dict::new(), inverting(small_segments()), 60 << 10);
    #[cfg(feature = "zlib")]
    buffer_over_zlib:
        Buffer::new(Dict::new(), compressed("zlib", small_segments()), 60 << 10);
    #[cfg(feature = "zlib")]
    buffer_of_zlib: Buffer::new(Zlib::new(Dict::new()), small_segments(), 60 << 10);
    #[cfg(feature = "zlib")]
    zlib: compressed("zlib", Dict::new());
    #[cfg(feature = "zlib")]
    zlib_over_segment_log: compressed("zlib", small_segments());
    #[cfg(feature = "zlib")]
    zlib_over_buffer: compressed("zlib", small_buffer());
    #[cfg(feature = "snappy")]
    snappy: compressed("snappy", Dict::new());
    #[cfg(feature = "snappy")]
    snappy_over_segment_log: compressed("snappy", small_segments());
    #[cfg(feature = "snappy")]
    snappy_over_buffer: compressed("snappy", small_buffer());
    #[cfg(feature = "lz4")]
    lz4: compressed("lz4", Dict::new());
    #[cfg(feature = "lz4")]
    lz4_over_segment_log: compressed("lz4", small_segments());
    #[cfg(feature = "lz4")]
    lz4_over_buffer: compressed("lz4", small_buffer());
    #[cfg(feature = "blosc")]
    blosc: compressed("blosc", Dict::new());
    #[cfg(feature = "blosc")]
    blosc_over_segment_log: compressed("blosc", small_segments());
    #[cfg(feature = "blosc")]
    blosc_over_buffer: compressed("blosc", small_buffer());
    #[cfg(feature = "zstd")]
    zstd: compressed("zstd", Dict::new());
    #[cfg(feature = "zstd")]
    zstd_over_segment_log: compressed("zstd", small_segments());
    #[cfg(feature = "zstd")]
    zstd_over_buffer: compressed("zstd", small_buffer());
}

#[cfg(feature = "bz2")]
contract! {
    @slow
    bz2: compressed("bz2:1", Dict::new());
    bz2_over_segment_log: compressed("bz2:1", small_segments());
    bz2_over_buffer: compressed("bz2:1", small_buffer());
}
