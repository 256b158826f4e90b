#!/usr/bin/env bash
# The tests are tested: a defect is planted in a copy of the code, and the test that is named beside
# it must fail. The defects of the disk, which are switched on at run time, are in tests/simulated/defects.rs.
#
#   tests/mutants.sh            all of them, some minutes
#   tests/mutants.sh NAME...    these
#   tests/mutants.sh --texts    plants none, but looks whether the code has the texts; part of .ci/run
#
# The copy is made in a temporary directory and is removed; the checkout is not touched. All mutants
# share one target directory: $PARTD_MUTANTS_TARGET, or one beside the copy.
#
# A mutant is caught if its test fails and says which invariant is violated, one of those named.
# It is an error if the text that it replaces is not there exactly once, if it does not compile, if
# no test runs, if the test does not end, or fails without such a word. Each test runs once before
# the first mutant is planted, and must pass. tests/README.md has the table.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/partd-mutants.XXXXXX")
trap 'rm -rf "$work"' EXIT
export CARGO_TARGET_DIR=${PARTD_MUTANTS_TARGET:-$work/target} CARGO_TERM_COLOR=never RUST_BACKTRACE=0
# Two rounds of the crash simulation are enough, and nobody reads the short workload.
export PARTD_CRASH_IMAGES=2500 PARTD_CRASH_SHRINK=0
minutes=10
texts_only=
if [ "${1-}" = --texts ]; then
    texts_only=1
    shift
fi
wanted=" $* "
names=() files=() invariants=() tests=() olds=() news=()

copy=$work/partd
log=$work/log
mkdir "$copy"
# With new times: an older run may have left its mutant in the target directory, built later than
# what the checkout has.
(cd "$root" && git ls-files -z --cached --others --exclude-standard) |
    (cd "$root" && tar --null --files-from=- --create --ignore-failed-read 2>/dev/null) |
    tar --extract --touch --directory "$copy"

# mutant NAME FILE INVARIANTS MODULE TEST OLD NEW; the tests are in tests/simulated/, and where
# `program` says so in other binaries.
mutant() {
    [[ $wanted == "  " || $wanted == *" $1 "* ]] || return 0
    names+=("$1") files+=("$2") invariants+=("$3") tests+=("$4::$5") olds+=("$6") news+=("$7")
}

# The arguments of cargo for the program that has a test.
program() {
    case $1 in
    sleeping::*) echo --release --manifest-path loom/Cargo.toml --test loom ;;
    shared_files::*) echo --test engine ;;
    threads::*) echo --test processes ;;
    *) echo --test simulated ;;
    esac
}

compiles() {
    # shellcheck disable=SC2046 # several words
    (cd "$copy" && cargo test --quiet $(program "$1") --no-run) >"$log" 2>&1
}

# Runs one test on the copy as it is; says what came of it in $result.
run() {
    local code=0
    # shellcheck disable=SC2046 # several words
    (cd "$copy" && timeout $((60 * minutes)) cargo test --quiet $(program "$1") -- --exact "$1") \
        >"$log" 2>&1 || code=$?
    if [ "$code" = 124 ]; then
        result="ERROR: it does not end in $minutes minutes"
    elif ! grep -q '^running [1-9]' "$log"; then
        result="ERROR: no test ran"
    elif [ "$code" = 0 ]; then
        result=passes
    else
        result=$(grep -m 1 -oE '(I[1-9]|live) is violated|^deadlock' "$log" | cut -d ' ' -f 1 || true)
        # As loom says it.
        result=${result/deadlock/live}
        result=${result:-"ERROR: it fails, but no invariant is named"}
    fi
}

# How often a file of the copy has a text.
times() {
    local text without
    text=$(cat "$copy/$1")
    without=${text//"$2"/}
    echo $(((${#text} - ${#without}) / ${#2}))
}

# Plants the mutant of a number, runs its test, and takes it out again.
try() {
    local i=$1 text
    local file=$copy/${files[i]}
    text=$(cat "$file" && echo .)
    text=${text%.}
    printf '%s' "${text/"${olds[i]}"/"${news[i]}"}" >"$file"
    if compiles "${tests[i]}"; then
        run "${tests[i]}"
        case $result in
        passes) result=SURVIVED ;;
        ERROR*) ;;
        *)
            if [[ " ${invariants[i]} " == *" $result "* ]]; then
                result="caught: $result"
            else
                result="ERROR: $result is violated"
            fi
            ;;
        esac
    else
        result="ERROR: it does not compile"
        grep -m 3 -A 5 '^error' "$log" || true
    fi
    printf '%s' "$text" >"$file"
}

crash=a_power_cut_at_any_operation_leaves_a_prefix_with_all_that_was_durable
flips=every_flipped_bit_is_detected_or_harmless_or_ends_the_history_where_the_model_allows_it
killed=a_process_killed_at_any_operation_loses_nothing_and_delays_nobody

# What is read is held against its checks.
mutant value-checksum src/log/segment/mod.rs I9 damage $flips \
    'if computed == extent.checksum() {' \
    'if computed == extent.checksum() || extent.len() > 0 {'
mutant head-checksum format/src/batch.rs I9 damage $flips \
    'if found != right {
            let at = offset + CHECKSUM_AT;' \
    'if found != right && offset == 0 {
            let at = offset + CHECKSUM_AT;'
mutant state-check format/src/word.rs I9 damage $flips \
    'let payload = salt
            .unpack(b'\''S'\'', "state word", offset, word, STATE_CHECK_BITS)
            .map_err(|error| Error { offset: at, ..error })?;' \
    'let payload = word >> STATE_CHECK_BITS;'
mutant link-check format/src/word.rs I9 damage $flips \
    'let payload = salt.unpack(b'\''L'\'', "link word", offset, word, LINK_CHECK_BITS)?;' \
    'let payload = word >> LINK_CHECK_BITS;'
mutant header-checksum format/src/segment.rs I9 damage $flips \
    'let right = crc32fast::hash(&bytes[..CHECKSUM_AT]);' \
    'let right = Le::read_u32(&bytes[CHECKSUM_AT..]);'
mutant lists-checksum format/src/segment.rs I9 damage $flips \
    'if output.lists_checksum != right {' \
    'if output.lists_checksum != right && right == 0 {'
mutant note-check format/src/word.rs I9 damage $flips \
    'let end = salt.unpack(b'\''N'\'', "durable_end", at, word, LINK_CHECK_BITS)? * 8;' \
    'let end = (word >> LINK_CHECK_BITS) * 8;'
mutant control-checksum format/src/control.rs I9 damage $flips \
    'let right = crc32fast::hash(&bytes[..CHECKSUM_AT]);' \
    'let right = Le::read_u32(&bytes[CHECKSUM_AT..]);'
mutant clean-stamp src/log/control.rs I9 damage $flips \
    '.load(Acquire) == self.clean_stamp()' \
    '.load(Acquire) != 0'
mutant salt src/log/segment/mod.rs I4 damage \
    bytes_of_an_earlier_life_of_the_disk_are_never_taken_for_batches \
    'let salt = Salt(u64::from_le_bytes(store.random()?));' \
    'let salt = Salt(u64::from_le_bytes(store.random()?) | u64::MAX);'

# The commit protocol beside the dead.
mutant help src/log/commit.rs 'live I1' kill_steps $killed \
    'help(words, seen).map_err(CommitError::Help)?;' \
    'return Err(CommitError::HistoryFull);'
mutant help-state src/log/commit.rs 'live I1' kill_steps $killed \
    'if let Err(error) = words.mark_committed(position, open.sequence) {' \
    'if let (Err(error), _) = (Ok::<(), W::Error>(()), position) {'
mutant take-over src/log/writer.rs 'live I1 I6' kill_steps \
    whoever_takes_the_slot_of_the_dead_finishes_what_it_left \
    'commit::take_over(control, number)?;' \
    ''

# Recovery.
mutant void src/log/recovery.rs I8 crash $crash \
    'given_up.iter().try_for_each(|found| segment.force_void(found.offset))?;' \
    ''
mutant void-again src/log/recovery.rs I7 crash $crash \
    'Ok(State::Void) => mode == RecoveryMode::Disk,' \
    'Ok(State::Void) => false,'
mutant recovered-values src/log/recovery.rs I3 crash $crash \
    'let values = mode == RecoveryMode::Disk && next > self.durable_seq;' \
    'let values = false;'
mutant holes src/log/recovery.rs 'I2' crash $crash \
    'None if next > must => break,' \
    'None if next > must => match numbers.range(next..).next() {
                    Some(_) => Ok(()),
                    None => break,
                },'
mutant mark src/log/recovery.rs I9 crash $crash \
    'RecoveryMode::Disk => self.durable_seq,' \
    'RecoveryMode::Disk => 0,'
mutant note src/log/recovery.rs I9 crash $crash \
    'surveyed.must_reach(surveyed.segment.durable_end())' \
    'surveyed.must_reach(0)'
mutant mark-in-header src/log/writer.rs I9 damage $flips \
    'fill(&mut prepared.claim, batch, &layout, control.durable_seq())' \
    'fill(&mut prepared.claim, batch, &layout, 0)'
mutant boot src/log/open.rs 'I1 I2 I6' crash $crash \
    'let is_usable = control.fixed.boot == boot' \
    'let is_usable = (control.fixed.boot == boot || boot.len() > 0)'
mutant closed-control src/log/open.rs I6 crash $crash \
    'Ok(control.is_clean() && store.segment_ids()?.last().is_none_or(is_last))' \
    'Ok(control.is_clean() && (true || store.segment_ids()?.last().is_none_or(is_last)))'

# Pops and compactions.
mutant pop-condition src/log/pop.rs I1 pops \
    a_pop_beside_segments_that_come_at_any_of_its_operations_loses_no_byte \
    'version.knows_all_segments(control.directory_epoch());' \
    'control.directory_epoch() > 0;'
mutant pins src/log/read/pins.rs live pins \
    a_view_keeps_the_segments_that_it_shows_and_no_others \
    'let mut last = None;' \
    'let mut last = None;
        pins.sparse.extend((0..).zip(segments.iter().cloned()));'
mutant wake-up src/log/background/wakeup.rs live sleeping \
    a_sleeper_ends_when_it_is_closed_and_no_reason_is_lost \
    'let mut state = self.state();
        state.is_closed = true;
        self.changed.notify_one();' \
    'self.changed.notify_one();
        self.state().is_closed = true;'
mutant rebuild-bound src/log/version.rs live refreshing \
    a_read_of_a_store_without_one_of_its_segments_is_an_error_though_others_make_segments \
    'tries -= 1;' \
    ''
mutant history-sync src/log/compaction.rs 'I1 I2' crash $crash \
    'self.syncer.sync_beside(self, base.max_seq, &base.input_ids())?;' \
    ''
mutant mark-too-early src/log/sync.rs I1 crash $crash \
    'if replaced.is_empty() {' \
    'if true {'
mutant passed-leader src/log/sync.rs I1 failing_calls \
    a_leader_that_was_passed_by_promises_nothing_after_a_sync_has_failed \
    'core.check_sync(control)?;
        if replaced' \
    'if replaced'
mutant replaced-name src/log/recovery.rs 'I1 I2' killed_compactions \
    a_power_cut_after_recovery_has_finished_a_killed_compaction_leaves_a_prefix \
    'match store.dir.sync() {' \
    'match Ok::<(), io::Error>(()) {'
mutant predecessor-name src/log/compaction.rs 'I1 I2' killed_compactions \
    a_power_cut_after_another_has_finished_a_killed_compaction_leaves_a_prefix \
    'self.sync_dir(control)?;
        let ids' \
    'let ids'
mutant torn-source src/log/recovery.rs I2 crash $crash \
    'self.unreadable_replaced = gone.map(|(id, _)| id).collect();' \
    'self.unreadable_replaced = gone.map(|(id, _)| id).filter(|_| false).collect();'
mutant announced src/log/discovery.rs I1 publishing \
    a_segment_that_comes_while_a_leader_looks_for_the_first_time_is_synced \
    'control.reserved_ids().collect();' \
    'BTreeSet::new();'
mutant owner src/log/writer.rs I1 publishing \
    a_segment_whose_number_a_dead_writer_wanted_stays_its_owners \
    'if segment.header().slot != u32::from(slot) {' \
    'if slot >= SLOTS {'
mutant output-sync src/log/compaction.rs 'I1 I2 I3' crash $crash \
    'segment.file().sync().map_err(|error| control.sync_error(segment.path(), error))?;' \
    ''
# What trusts a name instead of a file.
mutant presence src/log/open.rs live removed_files \
    any_file_removed_or_replaced_at_any_moment_is_an_error_at_worst \
    'if !control.is_original() || !control.is_present()? {' \
    'if false {'
mutant unlinked-name src/log/store.rs live removed_files \
    a_file_of_another_store_under_the_name_of_a_dead_segment_is_never_removed \
    'Ok(now) if now == id => self.unlink(name),' \
    'Ok(now) if now == id || now != id => self.unlink(name),'
mutant outlived src/log/outputs.rs I5 removed_files \
    a_segment_that_comes_back_after_it_was_compacted_away_brings_nothing_back \
    'id < self.id && !self.kept.contains(&id)' \
    'self.id == id && self.kept.contains(&id)'
mutant original src/log/control.rs live removed_files \
    a_copy_of_a_live_store_opens_as_a_prefix_or_with_an_error \
    '(self.fixed.device, self.fixed.inode) == (id.device, id.inode)' \
    '(self.fixed.device, self.fixed.inode) == (id.device, id.inode) || id.inode > 0'
mutant reserve src/log/writer.rs live removed_files \
    on_a_full_disk_a_new_process_deletes_clears_and_compacts \
    'if !is_full(&error) {' \
    'if is_full(&error) || !is_full(&error) {'
mutant hard-link src/log/control.rs I1 shared_files \
    a_store_at_rest_and_its_hard_linked_copy_go_on_apart_whichever_is_opened_first \
    'Ok(self.is_original() && links == 1 && !self.is_present()?)' \
    'Ok(self.is_original() && links > 0)'
mutant own-segment src/log/store.rs I1 shared_files \
    opening_a_hard_linked_copy_of_a_live_store_changes_nothing_in_the_original \
    'if links == 1 {' \
    'if links > 0 {'
mutant sync-identity src/log/sync.rs I1 shared_files \
    a_writer_notices_that_its_segment_was_moved_away_or_replaced \
    'is_in_place?;' \
    'drop(is_in_place);'
mutant forked-view src/log/recycle.rs I4 threads \
    a_view_in_a_child_of_fork_keeps_its_bytes_whatever_the_temporary_store_of_the_parent_writes \
    '&& self.recycler.forks == forks()' \
    '&& self.recycler.forks <= forks()'
mutant output-name src/log/compaction.rs 'I1 I2' crash $crash \
    'then(|| self.sync_dir(control));' \
    'then(|| Ok(()));'
mutant forgotten-delete src/log/compaction/plan.rs I5 crash $crash \
    '*removals = needed;' \
    '*removals = Removals::default();
        drop(needed);'
mutant replaced src/log/version/discovery.rs 'live I5' kill_steps \
    a_process_stopped_at_any_operation_delays_nobody_and_goes_on_later \
    'if !self.replaced.contains(&segment.id()) {' \
    'if !self.replaced.contains(&segment.id()) || segment.id() > 0 {'

for name in $wanted; do
    grep -q "^mutant $name " "$0" || { echo "there is no mutant $name"; exit 2; }
done
if [ -z "$texts_only" ]; then
    for test in $(printf '%s\n' "${tests[@]}" | sort -u); do
        compiles "$test" || { cat "$log"; exit 1; }
        run "$test"
        [ "$result" = passes ] || { cat "$log"; echo "without a mutant, $test: $result"; exit 1; }
    done
fi
missed=()
for i in "${!names[@]}"; do
    start=$SECONDS
    found=$(times "${files[i]}" "${olds[i]}")
    if [ "$found" != 1 ]; then
        result="ERROR: the text is there $found times in ${files[i]}"
    elif [ -n "$texts_only" ]; then
        continue
    else
        try "$i"
    fi
    [[ $result == caught* ]] || missed+=("${names[i]}")
    printf '%-22s %-8s %-72s %s, %d s\n' "${names[i]}" "${invariants[i]// /,}" "${tests[i]}" \
        "$result" $((SECONDS - start))
done
if [ ${#missed[@]} -gt 0 ]; then
    echo "${#missed[@]} of ${#names[@]} are not caught: ${missed[*]}"
    exit 1
fi
if [ -n "$texts_only" ]; then
    echo "the code has the texts of all ${#names[@]}"
    exit
fi
echo "all ${#names[@]} are caught, $SECONDS s"
