//! Compacts record batches before they are encoded: each array keeps only the bytes of its own
//! rows.
//!
//! The IPC writer trims buffers of numbers, offsets and strings to the rows of a slice. But it
//! writes the data buffers of views, the child of a list view and the values of a dictionary in
//! full, even if the rows use few of them, so each of 200 slices of a batch would store the whole
//! batch. This module reduces these, at any depth, to what valid rows refer to. Bytes that several
//! rows share stay shared, so compaction never enlarges an array, unlike
//! `GenericByteViewArray::gc`, which copies the bytes once for each view.

use std::sync::Arc;

use arrow_array::builder::BooleanBufferBuilder;
use arrow_array::cast::AsArray;
use arrow_array::types::{
    BinaryType, BinaryViewType, ByteArrayType, ByteViewType, Int16Type, Int32Type, Int64Type,
    LargeBinaryType, LargeUtf8Type, RunEndIndexType, StringViewType, Utf8Type,
};
use arrow_array::{
    Array, ArrayRef, BooleanArray, FixedSizeListArray, GenericByteArray, GenericListArray,
    GenericListViewArray, MapArray, OffsetSizeTrait, PrimitiveArray, RecordBatch,
    RecordBatchOptions, StructArray, make_array, new_empty_array,
};
use arrow_buffer::{ArrowNativeType, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow_data::ByteView;
use arrow_schema::{ArrowError, DataType, FieldRef};
use arrow_select::dictionary::garbage_collect_any_dictionary;
use arrow_select::filter::filter;

/// Values of at most this many bytes are stored inside the view.
const MAX_INLINE_BYTES: u32 = 12;
/// Views address a data buffer with 32 bits, of which Arrow's Java and C++ use 31.
const MAX_VIEW_BUFFER_BYTES: usize = i32::MAX as usize;
/// A copy pays off if more than one byte in this many is unused.
const UNUSED_SHARE: usize = 16;

/// Returns the same rows without bytes that belong to no row.
pub(super) fn batch(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(array).collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
}

fn array(of: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match of.data_type() {
        DataType::Utf8 => Ok(bytes::<Utf8Type>(of)),
        DataType::LargeUtf8 => Ok(bytes::<LargeUtf8Type>(of)),
        DataType::Binary => Ok(bytes::<BinaryType>(of)),
        DataType::LargeBinary => Ok(bytes::<LargeBinaryType>(of)),
        DataType::Utf8View => views::<StringViewType>(of),
        DataType::BinaryView => views::<BinaryViewType>(of),
        DataType::List(field) => list::<i32>(of, field),
        DataType::LargeList(field) => list::<i64>(of, field),
        DataType::Map(field, ordered) => map(of, field, *ordered),
        DataType::ListView(field) => list_view::<i32>(of, field),
        DataType::LargeListView(field) => list_view::<i64>(of, field),
        DataType::FixedSizeList(field, size) => {
            let list = of.as_fixed_size_list();
            let (values, nulls) = (array(list.values())?, list.nulls().cloned());
            let (field, len) = (field.clone(), list.len());
            let list = FixedSizeListArray::try_new_with_length(field, *size, values, nulls, len)?;
            Ok(Arc::new(list))
        }
        DataType::Struct(fields) => {
            let of = of.as_struct();
            let columns = of.columns().iter().map(array).collect::<Result<Vec<_>, _>>()?;
            let (fields, nulls, len) = (fields.clone(), of.nulls().cloned(), of.len());
            Ok(Arc::new(StructArray::try_new_with_length(fields, columns, nulls, len)?))
        }
        DataType::Dictionary(..) => {
            let used = garbage_collect_any_dictionary(of.as_any_dictionary())?;
            let dictionary = used.as_any_dictionary();
            Ok(dictionary.with_values(array(dictionary.values())?))
        }
        DataType::RunEndEncoded(ends, _) => match ends.data_type() {
            DataType::Int16 => run_ends::<Int16Type>(of),
            DataType::Int32 => run_ends::<Int32Type>(of),
            DataType::Int64 => run_ends::<Int64Type>(of),
            other => Err(ArrowError::InvalidArgumentError(format!("run ends of type {other}"))),
        },
        // Numbers and similar types: the writer trims their buffers.
        _ => Ok(of.clone()),
    }
}

/// Compacts strings and byte strings. The writer trims them to the slice, but null rows may still
/// span bytes.
fn bytes<T: ByteArrayType>(of: &ArrayRef) -> ArrayRef {
    let texts = of.as_bytes::<T>();
    if !hidden_lengths(texts.nulls(), texts.offsets()) {
        return of.clone();
    }
    Arc::new(texts.iter().collect::<GenericByteArray<T>>())
}

/// Returns whether a null row spans any bytes or items.
fn hidden_lengths<O: ArrowNativeType>(
    nulls: Option<&NullBuffer>,
    offsets: &OffsetBuffer<O>,
) -> bool {
    let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) else { return false };
    nulls.iter().zip(offsets.windows(2)).any(|(valid, ends)| !valid && ends[0] != ends[1])
}

/// A range of bytes in a data buffer of views, and its address in memory.
///
/// Two buffers of an array may be the same memory or overlap, so only addresses show what is
/// shared. Addresses are compared and never dereferenced.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Used {
    address: usize,
    len: u32,
    buffer: u32,
    offset: u32,
}

/// Copies each byte that valid rows refer to once, and points the views at the copies.
fn views<T: ByteViewType>(of: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let of_views = of.as_byte_view::<T>();
    let buffers = of_views.data_buffers();
    let is_used = |i: usize, view: &ByteView| view.length > MAX_INLINE_BYTES && of.is_valid(i);
    let mut used = Vec::new();
    for (i, &view) in of_views.views().iter().enumerate() {
        let view = ByteView::from(view);
        if is_used(i, &view) {
            let start = buffers[view.buffer_index as usize].as_ptr() as usize;
            used.push(Used {
                address: start + view.offset as usize,
                len: view.length,
                buffer: view.buffer_index,
                offset: view.offset,
            });
        }
    }
    used.sort_unstable();
    let held: usize = buffers.iter().map(Buffer::len).sum();
    let unused = held.saturating_sub(covered(&used));
    if unused <= held / UNUSED_SHARE {
        return Ok(of.clone());
    }
    let (runs, copies) = copy(&used, buffers);
    let moved = |i: usize, &view: &u128| {
        let mut view = ByteView::from(view);
        if is_used(i, &view) {
            let start = buffers[view.buffer_index as usize].as_ptr() as usize;
            let address = start + view.offset as usize;
            // The last run that begins at or before the view contains it.
            let run = &runs[runs.partition_point(|run| run.address <= address) - 1];
            view.buffer_index = run.buffer;
            view.offset = run.offset + (address - run.address) as u32;
        } else if view.length > MAX_INLINE_BYTES {
            return 0;
        }
        view.as_u128()
    };
    let moved: ScalarBuffer<u128> =
        of_views.views().iter().enumerate().map(|(i, view)| moved(i, view)).collect();
    let nulls = of_views.nulls().cloned();
    Ok(Arc::new(arrow_array::GenericByteViewArray::<T>::try_new(moved, copies, nulls)?))
}

/// Returns the number of distinct bytes in memory that sorted ranges cover.
fn covered(used: &[Used]) -> usize {
    let (mut bytes, mut end) = (0, 0);
    for range in used {
        let range_end = range.address + range.len as usize;
        bytes += range_end.saturating_sub(range.address.max(end));
        end = end.max(range_end);
    }
    bytes
}

/// Copies sorted ranges into new buffers, each shared byte once. Returns the new position of each
/// run of adjoining ranges. If two runs begin at the same address, the later one has the longer
/// ranges.
fn copy(used: &[Used], buffers: &[Buffer]) -> (Vec<Used>, Vec<Buffer>) {
    let (mut runs, mut full, mut open) = (Vec::<Used>::new(), Vec::new(), Vec::<u8>::new());
    for range in used {
        let range_end = range.address + range.len as usize;
        let bytes = &buffers[range.buffer as usize].as_slice()[range.offset as usize..]
            [..range.len as usize];
        let room = MAX_VIEW_BUFFER_BYTES.saturating_sub(open.len());
        match runs.last_mut() {
            // The range begins at the end of the previous run, or inside it.
            Some(run) if range.address <= run.address + run.len as usize => {
                let run_end = run.address + run.len as usize;
                let more = range_end.saturating_sub(run_end);
                if more <= room {
                    open.extend_from_slice(&bytes[bytes.len() - more..]);
                    run.len += more as u32;
                    continue;
                }
            }
            _ => {}
        }
        if bytes.len() > room && !open.is_empty() {
            full.push(Buffer::from_vec(std::mem::take(&mut open)));
        }
        let (buffer, offset) = (full.len() as u32, open.len() as u32);
        open.extend_from_slice(bytes);
        runs.push(Used { buffer, offset, ..*range });
    }
    if !open.is_empty() {
        full.push(Buffer::from_vec(open));
    }
    (runs, full)
}

fn list<O: OffsetSizeTrait>(of: &ArrayRef, field: &FieldRef) -> Result<ArrayRef, ArrowError> {
    let list = of.as_list::<O>();
    let (offsets, values) = items(list.offsets(), list.values(), list.nulls())?;
    let nulls = list.nulls().cloned();
    Ok(Arc::new(GenericListArray::<O>::try_new(field.clone(), offsets, values, nulls)?))
}

fn map(of: &ArrayRef, field: &FieldRef, ordered: bool) -> Result<ArrayRef, ArrowError> {
    let map = of.as_map();
    let entries: ArrayRef = Arc::new(map.entries().clone());
    let (offsets, entries) = items(map.offsets(), &entries, map.nulls())?;
    let (entries, nulls) = (entries.as_struct().clone(), map.nulls().cloned());
    Ok(Arc::new(MapArray::try_new(field.clone(), offsets, entries, nulls, ordered)?))
}

/// Returns the items of the valid lists only, with offsets from 0.
fn items<O: OffsetSizeTrait>(
    offsets: &OffsetBuffer<O>,
    values: &ArrayRef,
    nulls: Option<&NullBuffer>,
) -> Result<(OffsetBuffer<O>, ArrayRef), ArrowError> {
    let first = offsets[0].as_usize();
    let mut values = values.slice(first, offsets[offsets.len() - 1].as_usize() - first);
    let mut lengths: Vec<usize> = offsets.lengths().collect();
    if hidden_lengths(nulls, offsets) {
        let mut kept = BooleanBufferBuilder::new(values.len());
        for (row, len) in lengths.iter_mut().enumerate() {
            let valid = nulls.is_none_or(|nulls| nulls.is_valid(row));
            kept.append_n(*len, valid);
            *len = if valid { *len } else { 0 };
        }
        values = filter(&values, &BooleanArray::new(kept.finish(), None))?;
    }
    Ok((OffsetBuffer::from_lengths(lengths), array(&values)?))
}

/// Keeps each item that valid list views refer to, once.
fn list_view<O: OffsetSizeTrait>(of: &ArrayRef, field: &FieldRef) -> Result<ArrayRef, ArrowError> {
    let lists = of.as_list_view::<O>();
    let range = |i: usize| (lists.offsets()[i].as_usize(), lists.sizes()[i].as_usize());
    let is_used = |i: &usize| lists.is_valid(*i) && range(*i).1 > 0;
    let mut used: Vec<(usize, usize)> = (0..lists.len()).filter(is_used).map(range).collect();
    used.sort_unstable();
    // For each run of adjoining items: its start, its end, and its start after the move.
    let mut runs = Vec::<(usize, usize, usize)>::new();
    for (start, len) in used {
        match runs.last_mut() {
            Some((_, end, _)) if start <= *end => *end = (*end).max(start + len),
            last => {
                let moved = last.map_or(0, |&mut (start, end, moved)| moved + (end - start));
                runs.push((start, start + len, moved));
            }
        }
    }
    let values = match runs[..] {
        [] => lists.values().slice(0, 0),
        [(start, end, _)] => lists.values().slice(start, end - start),
        _ => {
            let mut kept = BooleanBufferBuilder::new(lists.values().len());
            for &(start, end, _) in &runs {
                kept.append_n(start - kept.len(), false);
                kept.append_n(end - start, true);
            }
            kept.append_n(lists.values().len() - kept.len(), false);
            filter(lists.values(), &BooleanArray::new(kept.finish(), None))?
        }
    };
    let mut offsets = Vec::with_capacity(lists.len());
    let mut sizes = Vec::with_capacity(lists.len());
    for i in 0..lists.len() {
        let (offset, size) = if is_used(&i) { range(i) } else { (0, 0) };
        let run = runs.partition_point(|&(start, ..)| start <= offset).checked_sub(1);
        let moved = match run {
            Some(run) if size > 0 => offset - runs[run].0 + runs[run].2,
            _ => 0,
        };
        // Neither number grows, so both still fit their type.
        offsets.push(O::usize_as(moved));
        sizes.push(O::usize_as(size));
    }
    let (values, nulls) = (array(&values)?, lists.nulls().cloned());
    Ok(Arc::new(GenericListViewArray::<O>::try_new(
        field.clone(),
        offsets.into(),
        sizes.into(),
        values,
        nulls,
    )?))
}

/// Keeps the runs of a slice, with run ends counted from its first row.
fn run_ends<R: RunEndIndexType>(of: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let runs = of.as_run::<R>();
    if runs.is_empty() {
        // For an empty run array, the writer replaces the child after counting the child's buffers.
        return Ok(new_empty_array(of.data_type()));
    }
    let ends = PrimitiveArray::<R>::from_iter_values(runs.run_ends().sliced_values());
    let values = array(&runs.values_slice())?;
    let data = runs.to_data().into_builder().offset(0).len(runs.len());
    Ok(make_array(data.child_data(vec![ends.into_data(), values.into_data()]).build()?))
}
