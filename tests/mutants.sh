#!/usr/bin/env bash
# Tests the tests: plants a defect in a copy of the code, and checks that the test named beside it
# fails. The defects of the disk, which are switched on at run time, are in
# tests/simulated/defects.rs.
#
#   tests/mutants.sh            all mutants; takes several minutes
#   tests/mutants.sh NAME...    only these
#   tests/mutants.sh --texts    only checks that the code has the texts to replace; part of .ci/run
#
# The copy is in a temporary directory, which is removed afterwards; the checkout is not changed. All
# mutants share one target directory: $PARTD_MUTANTS_TARGET, or one beside the copy.
#
# A mutant is caught if its test fails and reports the violation of one of the listed invariants. It
# is an error if the text to replace does not occur exactly once, if the mutant does not compile, if
# no test runs, if the test does not end, or if it fails without naming an invariant. Each test runs
# once before the first mutant is planted, and must pass. tests/README.md has the table.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/partd-mutants.XXXXXX")
trap 'rm -rf "$work"' EXIT
export CARGO_TARGET_DIR=${PARTD_MUTANTS_TARGET:-$work/target} CARGO_TERM_COLOR=never RUST_BACKTRACE=0
# Two rounds of the crash simulation are enough, and no shortened workload is needed.
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
# Touch the files: an earlier run may have left a mutant in the target directory whose build is newer
# than the files of the checkout.
(cd "$root" && git ls-files -z --cached --others --exclude-standard) |
    (cd "$root" && tar --null --files-from=- --create --ignore-failed-read 2>/dev/null) |
    tar --extract --touch --directory "$copy"

# mutant NAME FILE INVARIANTS MODULE TEST OLD NEW; the tests are in tests/simulated/, unless
# `program` lists another binary.
mutant() {
    [[ $wanted == "  " || $wanted == *" $1 "* ]] || return 0
    names+=("$1") files+=("$2") invariants+=("$3") tests+=("$4::$5") olds+=("$6") news+=("$7")
}

# The cargo arguments that select the binary of a test.
program() {
    case $1 in
    sleeping::*) echo --release --manifest-path loom/Cargo.toml --test loom ;;
    alignment::* | extents::* | following::* | identity::* | reopen::* | shared_files::* | unverified::*)
        echo --test engine
        ;;
    threads::*) echo --test processes ;;
    *) echo --test simulated ;;
    esac
}

compiles() {
    # shellcheck disable=SC2046 # several words
    (cd "$copy" && cargo test --quiet $(program "$1") --no-run) >"$log" 2>&1
}

# Runs one test on the current copy; stores the outcome in $result.
run() {
    local code=0
    # shellcheck disable=SC2046 # several words
    (cd "$copy" && timeout $((60 * minutes)) cargo test --quiet $(program "$1") -- --exact "$1") \
        >"$log" 2>&1 || code=$?
    if [ "$code" = 124 ]; then
        result="ERROR: it does not end within $minutes minutes"
    elif ! grep -q '^running [1-9]' "$log"; then
        result="ERROR: no test ran"
    elif [ "$code" = 0 ]; then
        result=passes
    else
        result=$(grep -m 1 -oE '(I[1-9]|I10|live|aligned) is violated|^deadlock' "$log" | cut -d ' ' -f 1 || true)
        # Loom reports a deadlock in its own words.
        result=${result/deadlock/live}
        result=${result:-"ERROR: it fails, but no invariant is named"}
    fi
}

# Counts the occurrences of a text in a file of the copy.
times() {
    local text without
    text=$(cat "$copy/$1")
    without=${text//"$2"/}
    echo $(((${#text} - ${#without}) / ${#2}))
}

# Plants a mutant by its index, runs its test, and restores the file.
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

crash=a_power_cut_at_any_operation_leaves_a_prefix_with_every_durable_batch
flips=every_flipped_bit_is_detected_harmless_or_ends_the_history_where_the_model_allows_it
killed=a_process_killed_at_any_operation_loses_nothing_and_delays_no_one

# Checks of the bytes that are read.
mutant value-checksum src/log/segment/mod.rs I9 damage $flips \
    'if computed == extent.checksum() {' \
    'if computed == extent.checksum() || extent.len() > 0 {'
mutant long-chunk src/log/read/unverified.rs I9 unverified \
    damage_in_any_part_of_a_chunk_of_any_length_is_an_error \
    'match self.compares {' \
    'match self.compares && !is_long {'
mutant head-checksum format/src/batch/parse.rs I9 damage $flips \
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
mutant watermark-check format/src/word.rs I9 damage $flips \
    'let end = salt.unpack(b'\''N'\'', "durable_end", at, word, LINK_CHECK_BITS)? * 8;' \
    'let end = (word >> LINK_CHECK_BITS) * 8;'
mutant control-checksum format/src/control.rs I9 reopen \
    a_control_file_with_a_damaged_header_is_replaced_or_refused_and_never_used \
    'let right = crc32fast::hash(&bytes[..CHECKSUM_AT]);' \
    'let right = Le::read_u32(&bytes[CHECKSUM_AT..]);'
mutant clean-stamp src/log/shared/control.rs I9 damage $flips \
    '.load(Acquire) == self.clean_stamp()' \
    '.load(Acquire) != 0'
mutant salt src/log/segment/unpublished.rs I4 damage \
    stale_bytes_from_earlier_files_are_never_taken_for_batches \
    'let salt = Salt(u64::from_le_bytes(directory.random()?));' \
    'let salt = Salt(u64::from_le_bytes(directory.random()?) | u64::MAX);'

# The commit protocol in the presence of dead processes.
mutant help src/log/shared/commit.rs 'live I1' kill_steps $killed \
    'help(words, seen).map_err(CommitError::Help)?;' \
    'return Err(CommitError::HistoryFull);'
mutant help-state src/log/shared/commit.rs 'live I1' kill_steps $killed \
    'if let Err(error) = words.mark_committed(position, open.sequence) {' \
    'if let (Err(error), _) = (Ok::<(), W::Error>(()), position) {'
mutant take-over src/log/write/mod.rs 'live I1 I6' kill_steps \
    the_next_owner_of_a_dead_writers_slot_finishes_its_open_commit \
    'commit::take_over(control, slot)?;' \
    ''

# Recovery.
mutant void src/log/open/scanned.rs 'I6 I8' crash $crash \
    'given_up.iter().try_for_each(|found| segment.force_void(found.offset))?;' \
    ''
mutant void-repeated src/log/open/scanned.rs I7 crash $crash \
    'Ok(State::Void) => mode == RecoveryMode::Disk,' \
    'Ok(State::Void) => false,'
mutant recovered-values src/log/open/recovery.rs 'I3 I8' crash $crash \
    'let values = mode == RecoveryMode::Disk && next > self.durable_seq;' \
    'let values = false;'
mutant holes src/log/open/recovery.rs 'I2 I7' crash $crash \
    'None if next > must => break,' \
    'None if next > must => match numbers.range(next..).next() {
                    Some(_) => Ok(()),
                    None => break,
                },'
mutant durable-seq src/log/open/recovery.rs I9 crash $crash \
    'RecoveryMode::Disk => self.durable_seq,' \
    'RecoveryMode::Disk => 0,'
mutant segment-watermark src/log/open/recovery.rs I9 crash $crash \
    'scanned.must_reach(scanned.segment.durable_end())' \
    'scanned.must_reach(0)'
mutant durable-seq-in-head src/log/write/mod.rs I9 damage $flips \
    'fill(&mut prepared.claim, batch, &shape.layout, control.durable_seq())' \
    'fill(&mut prepared.claim, batch, &shape.layout, 0)'
mutant boot src/log/open/trust.rs 'I1 I2 I6' crash $crash \
    'let is_usable = control.fixed.boot == boot' \
    'let is_usable = (control.fixed.boot == boot || boot.len() > 0)'
mutant closed-control src/log/open/trust.rs I6 reopen \
    an_older_control_file_of_the_same_store_written_back_in_place_costs_no_data \
    'Ok(control.is_clean() && directory.segment_ids()?.last().is_none_or(is_last))' \
    'Ok(control.is_clean() && (true || directory.segment_ids()?.last().is_none_or(is_last)))'

# Pops and compactions.
mutant pop-condition src/log/pop.rs I1 pops \
    a_pop_loses_no_bytes_when_segments_appear_at_any_of_its_operations \
    'version.knows_all_segments(control.directory_epoch());' \
    'control.directory_epoch() > 0;'
mutant pins src/log/read/pins.rs live pins \
    a_view_keeps_only_the_segments_of_its_extents_open \
    'Pins::collect(extents, |extent| &segments[extent.segment() as usize])' \
    'let mut pins = Pins::collect(extents, |extent| &segments[extent.segment() as usize]);
        pins.sparse.extend((0..).zip(segments.iter().cloned()));
        pins'
mutant view-pins src/log/segment/recycle.rs I4 extents \
    lent_values_keep_their_bytes_while_a_temporary_store_recycles_its_segments \
    '&& Arc::into_inner(segment).is_some();' \
    '&& {
                drop(segment);
                true
            };'
mutant generation src/log/maintain/compaction/plan.rs live following \
    growth_compaction_and_a_new_handle_are_not_reported_as_a_rewrite \
    'sequence: extents[first].sequence(),' \
    'sequence: extents[next - 1].sequence(),'
mutant wake-up src/log/maintain/wakeup.rs live sleeping \
    a_sleeper_ends_when_closed_and_no_wake_up_is_lost \
    'let mut state = self.state();
        state.is_closed = true;
        self.changed.notify_one();' \
    'self.changed.notify_one();
        self.state().is_closed = true;'
mutant own-slots src/log/write/mod.rs live own_slots \
    a_large_append_does_not_wait_for_one_of_another_thread_and_is_durable_by_itself \
    'Ok(copying) => return (number, Some(copying)),' \
    'Ok(copying) => return (0, Some(copying)),'
mutant index-shares src/log/read/index.rs I2 reopen \
    a_history_of_many_entries_is_indexed_by_several_threads_as_by_one \
    '(number, parts)| Share { hasher, first: number * len, parts }' \
    '(_, parts)| Share { hasher, first: 0, parts }'
mutant rebuild-bound src/log/read/replay.rs live refreshing \
    a_read_without_one_segment_is_an_error_although_others_create_segments \
    'tries -= 1;' \
    ''
mutant history-sync src/log/maintain/compaction/run.rs 'I1 I2' crash $crash \
    'syncer.sync_beside(store, base.max_seq, &base.input_ids())?;' \
    ''
mutant durable-seq-too-early src/log/maintain/sync.rs I1 crash $crash \
    'if replaced.is_empty() {' \
    'if true {'
mutant superseded-leader src/log/maintain/sync.rs I1 failing_syncs \
    a_superseded_sync_leader_promises_nothing_after_a_failed_sync \
    'store.check_sync(control)?;
        if replaced' \
    'if replaced'
mutant replaced-name src/log/open/recovery.rs 'I1 I2' killed_compactions \
    a_power_cut_after_recovery_finished_a_killed_compaction_leaves_a_prefix \
    'match directory.dir.sync() {' \
    'match Ok::<(), io::Error>(()) {'
mutant predecessor-name src/log/maintain/compaction/run.rs 'I1 I2' killed_compactions \
    a_power_cut_after_another_process_finished_a_killed_compaction_leaves_a_prefix \
    'store.sync_dir(control)?;
    let ids' \
    'let ids'
mutant torn-input src/log/open/recovery.rs I2 crash $crash \
    'self.unreadable_replaced = gone.map(|(id, _)| id).collect();' \
    'self.unreadable_replaced = gone.map(|(id, _)| id).filter(|_| false).collect();'
mutant reserved-ids src/log/read/discovery.rs I1 publishing \
    a_segment_published_during_a_sync_leaders_first_discovery_is_synced \
    'control.reserved_ids().collect();' \
    'BTreeSet::new();'
mutant probed-once src/log/read/discovery.rs I1 publishing \
    a_segment_published_right_after_a_sync_leader_did_not_find_its_file_is_synced \
    'for _ in 0..2 {' \
    'for _ in 0..1 {'
mutant replaced-meanwhile src/log/maintain/sync.rs live replaced_segments \
    a_sync_succeeds_although_a_compaction_replaces_a_segment_right_before_it_is_synced \
    'if is_in_place.is_err() &&' \
    'if false &&'
mutant replaced-at-open src/log/maintain/sync.rs live replaced_segments \
    a_sync_succeeds_although_a_compaction_replaces_a_segment_right_before_it_is_synced \
    'if source.kind() == io::ErrorKind::NotFound' \
    'if source.kind() == io::ErrorKind::Other'
mutant predecessor-epoch src/log/maintain/compaction/run.rs live replaced_segments \
    a_handle_syncs_and_lends_files_after_another_process_finished_a_killed_compaction \
    'control.raise_directory_epoch();' \
    ''
mutant predecessor-durable-seq src/log/maintain/compaction/run.rs live replaced_segments \
    a_handle_syncs_and_lends_files_after_another_process_finished_a_killed_compaction \
    'control.raise_durable_seq(newest.max_seq);' \
    ''
mutant owner src/log/write/orphan.rs I1 publishing \
    a_segment_whose_id_a_dead_writer_reserved_still_belongs_to_its_owner \
    'if segment.header().slot != u32::from(slot) {' \
    'if slot == u16::MAX {'
mutant output-sync src/log/maintain/compaction/output.rs 'I1 I2 I3' crash $crash \
    'segment.file().sync().map_err(|error| control.sync_error(segment.path(), error))?;' \
    ''
# Trust in a name instead of a file.
mutant presence src/log/open/join.rs live removed_files \
    any_file_removed_or_replaced_at_any_moment_is_an_error_at_worst \
    'if !control.is_original() || !control.is_present()? {' \
    'if false {'
mutant lock-identity src/log/fs/linux.rs live identity \
    a_handle_takes_no_lock_on_a_control_file_that_replaced_its_own \
    'if (metadata.dev(), metadata.ino()) != (id.device, id.inode) {' \
    'if (metadata.dev(), metadata.ino()) != (id.device, id.inode) && id.inode == 0 {'
mutant unlinked-name src/log/fs/directory.rs live removed_files \
    a_file_of_another_store_under_the_name_of_a_dead_segment_is_never_removed \
    'Ok(now) if now == id => self.unlink(name),' \
    'Ok(now) if now == id || now != id => self.unlink(name),'
mutant predecessor-identity src/log/fs/directory.rs live replaced_segments \
    a_file_of_another_store_in_place_of_an_input_survives_when_a_killed_compaction_is_finished \
    'Ok(Content::Segment(found)) if found == id => self' \
    'Ok(Content::Segment(_) | Content::Foreign) => self'
mutant foreign-reserve src/log/fs/directory.rs live reserves \
    a_file_of_another_store_under_the_name_of_a_reserve_is_never_overwritten_or_removed \
    'if is_blank && is_allocated &&' \
    'if (is_blank || len > 0) && is_allocated &&'
mutant replaced-reserve src/log/fs/directory.rs live reserves \
    a_file_of_another_store_under_the_name_of_a_reserve_is_never_overwritten_or_removed \
    '.contains(&old) || !is_blank() {' \
    '.contains(&old) {'
mutant sparse-reserve src/log/fs/directory.rs live reserves \
    a_sparse_reserve_of_a_copied_store_is_not_used_on_a_full_disk \
    'if is_blank && is_allocated &&' \
    'if is_blank && (is_allocated || len > 0) &&'
mutant restored-segment src/log/segment/outputs.rs I5 removed_files \
    a_segment_restored_after_it_was_compacted_away_resurrects_nothing \
    'id < self.id && !self.kept.contains(&id)' \
    'self.id == id && self.kept.contains(&id)'
mutant original src/log/shared/control.rs live removed_files \
    a_copy_of_a_live_store_opens_as_a_prefix_or_with_an_error \
    '(self.fixed.device, self.fixed.inode) == (id.device, id.inode)' \
    '(self.fixed.device, self.fixed.inode) == (id.device, id.inode) || id.inode > 0'
mutant reserve src/log/write/new_segment.rs live removed_files \
    on_a_full_disk_a_new_process_deletes_clears_and_compacts \
    'if !is_full(&error) {' \
    'if is_full(&error) || !is_full(&error) {'
mutant hard-link src/log/shared/control.rs I1 shared_files \
    a_closed_store_and_its_hard_linked_copy_diverge_safely_whichever_opens_first \
    'Ok(self.is_original() && links == 1 && !self.is_present()?)' \
    'Ok(self.is_original() && links > 0)'
mutant own-segment src/log/fs/directory.rs I1 shared_files \
    opening_a_hard_linked_copy_of_a_live_store_changes_nothing_in_the_original \
    'if links == 1 {' \
    'if links > 0 {'
mutant sync-identity src/log/maintain/sync.rs I1 shared_files \
    a_writer_notices_that_its_segment_was_moved_away_or_replaced \
    'is_in_place?;' \
    'drop(is_in_place);'
mutant forked-view src/log/segment/recycle.rs I4 threads \
    a_view_in_a_forked_child_keeps_its_bytes_while_the_parent_writes_to_its_temporary_store \
    '&& self.forks == forks()' \
    '&& self.forks <= forks()'
mutant output-name src/log/maintain/compaction/output.rs 'I1 I2' crash $crash \
    'then(|| store.sync_dir(control));' \
    'then(|| Ok(()));'
mutant forgotten-delete src/log/maintain/compaction/plan.rs I5 crash $crash \
    '*removals = needed;' \
    '*removals = Removals::default();
        drop(needed);'
mutant forgotten-prefix src/log/maintain/compaction/plan.rs I5 crash $crash \
    'if !needed.prefixes.contains_key(prefix) {' \
    'if !needed.prefixes.contains_key(prefix) && false {'
mutant prefix-neighbours src/log/read/order.rs 'live I1 I2 I5' crash $crash \
    'key.as_bytes().starts_with(prefix)' \
    'key.as_bytes().starts_with(&prefix[..prefix.len() - 1])'
mutant misaligned-output src/log/maintain/compaction/plan.rs aligned alignment \
    long_values_are_aligned_before_and_after_compactions \
    '&& value_offset(len, extent.len()) == len' \
    '&& value_offset(len, extent.len()) >= len'
mutant replaced src/log/read/take_in.rs 'live I5' kill_steps \
    a_process_stopped_at_any_operation_delays_no_one_and_resumes_later \
    'if !self.replaced.contains(&segment.id()) {' \
    'if !self.replaced.contains(&segment.id()) || segment.id() > 0 {'

for name in $wanted; do
    grep -q "^mutant $name " "$0" || { echo "there is no mutant $name"; exit 2; }
done
if [ -z "$texts_only" ]; then
    for test in $(printf '%s\n' "${tests[@]}" | sort -u); do
        compiles "$test" || { cat "$log"; exit 1; }
        run "$test"
        [ "$result" = passes ] || { cat "$log"; echo "without any mutant, $test: $result"; exit 1; }
    done
fi
missed=()
for i in "${!names[@]}"; do
    start=$SECONDS
    found=$(times "${files[i]}" "${olds[i]}")
    if [ "$found" != 1 ]; then
        result="ERROR: the text occurs $found times in ${files[i]}"
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
    echo "${#missed[@]} of ${#names[@]} mutants are not caught: ${missed[*]}"
    exit 1
fi
if [ -n "$texts_only" ]; then
    echo "the code has the texts of all ${#names[@]} mutants"
    exit
fi
echo "all ${#names[@]} mutants are caught, $SECONDS s"
