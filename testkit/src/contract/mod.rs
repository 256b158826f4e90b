//! The contract of `Partd`: the behaviours that every store and layer has, and the macro that makes
//! a test of each.

pub mod basics;
pub mod batches;
pub mod sets;
pub mod threads;

/// Makes a test of each behaviour for each store: `name: expression;`, where the expression creates
/// an empty store. A list that begins with `@slow` leaves out the tests with very many values.
#[macro_export]
macro_rules! contract {
    ($($(#[$meta:meta])* $store:ident: $make:expr;)*) => {$(
        $(#[$meta])*
        mod $store {
            use super::*;
            $crate::contract!(@few_values $make);
            $crate::contract!(@many_values $make);
        }
    )*};
    // For a store that is slow per value.
    (@slow $($(#[$meta:meta])* $store:ident: $make:expr;)*) => {$(
        $(#[$meta])*
        mod $store {
            use super::*;
            $crate::contract!(@few_values $make);
        }
    )*};
    (@few_values $make:expr) => {
        $crate::contract!(@tests $make; basics:
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
        $crate::contract!(@tests $make; sets:
            the_first_set_wins_and_later_ones_do_nothing
            a_set_replaces_what_was_appended_before
            appends_follow_a_set_and_a_later_set_does_nothing
            a_delete_lets_the_next_set_win_again
            a_pop_and_a_clear_let_the_next_set_win_again
            an_empty_set_counts
        );
        $crate::contract!(@tests $make; batches:
            the_same_key_twice_in_a_batch_is_in_order
            a_mixed_batch_is_applied_in_order
            a_delete_and_an_append_in_one_batch_replace_the_value
            a_clear_in_a_batch_leaves_later_operations_in_effect
            a_prefix_delete_removes_the_keys_with_the_prefix_and_no_other
            a_prefix_delete_in_a_batch_takes_its_place_among_the_operations
            sets_in_a_batch_are_applied_in_order
        );
        $crate::contract!(@tests $make; threads:
            appends_of_threads_arrive_once_whole_and_in_order_and_readers_see_prefixes
            pops_racing_with_appends_lose_and_double_nothing
            a_batch_is_seen_whole_or_not_at_all
            exactly_one_of_several_racing_sets_wins
        );
    };
    (@many_values $make:expr) => {
        $crate::contract!(@tests $make; basics:
            len_of_is_the_length_of_the_value
            twenty_thousand_keys_round_trip
        );
        $crate::contract!(@tests $make; sets: a_set_before_every_append_counts_once);
        $crate::contract!(@tests $make; batches: a_batch_can_have_very_many_operations);
    };
    (@tests $make:expr; $behaviours:ident: $($behaviour:ident)*) => {$(
        #[test]
        fn $behaviour() {
            let store: Box<dyn ::partd::Partd> = Box::new($make);
            $crate::contract::$behaviours::$behaviour(&store);
        }
    )*};
}

#[cfg(test)]
mod tests {
    /// Finds the behaviours that the macro leaves out.
    #[test]
    fn the_macro_runs_every_behaviour() {
        let suite = [
            include_str!("basics.rs"),
            include_str!("batches.rs"),
            include_str!("sets.rs"),
            include_str!("threads.rs"),
        ];
        let lines = suite.iter().flat_map(|text| text.lines());
        let names: Vec<&str> =
            lines.filter_map(|line| line.strip_prefix("pub fn ")?.split('<').next()).collect();
        assert!(names.len() > 30, "{} behaviours are found", names.len());
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        let here: Vec<&str> = include_str!("mod.rs").split(|c| !is_name(c)).collect();
        let missing: Vec<&str> = names.into_iter().filter(|name| !here.contains(name)).collect();
        assert!(missing.is_empty(), "the macro does not run {missing:?}");
    }
}
