//! `frost diff`: what changed from one image to another.

use crate::failure::{Failure, Status, Told};
use crate::invocation::Invocation;
use crate::output::{self, Paint};
use crate::progress::Progress;
use crate::trouble;
use clap::Args;
use frost_model::PAGE_SIZE;
use frost_store::{Image, ImageId, Store};
use frost_view::difference::{
    DescriptorChange, Mapping, MappingChange, Named, ObjectDifference, PageCount, Presence,
    ProcessDifference, RegionPages, Setting,
};
use frost_view::{Difference, Error};
use serde::Serialize;
use std::process::ExitCode;

/// Tells what changed from one image to another, or what a program wrote into its layers
///
/// With one name: each path that differs from what lies below the layer, as `A` added, `C` changed, `D` removed, of a program
/// that runs or has ended, or of the image of one that is frozen. With two: processes that came and went, and for each that both have: threads, mappings, pages, descriptors and settings. Images of
/// one program are compared best, since processes are told apart by their pids.
#[derive(Args, Debug)]
pub(crate) struct Options {
    /// The image to start from, or the program: a name for its newest version, or NAME@VERSION
    #[arg(value_name = "A")]
    before: String,
    /// The image to compare with it
    #[arg(value_name = "B")]
    after: Option<String>,
}

#[derive(Serialize)]
struct ChangeRecord {
    path: String,
    change: &'static str,
}

#[derive(Serialize)]
struct Record {
    before: String,
    after: String,
    gone: Vec<NamedRecord>,
    come: Vec<NamedRecord>,
    same: usize,
    changed: Vec<ProcessRecord>,
    objects: Vec<ObjectRecord>,
    ipc: Vec<SettingRecord>,
}

#[derive(Serialize)]
struct NamedRecord {
    id: i32,
    name: String,
}

#[derive(Serialize)]
struct ProcessRecord {
    pid: i32,
    command: String,
    threads_gone: Vec<NamedRecord>,
    threads_come: Vec<NamedRecord>,
    threads_moved: Vec<NamedRecord>,
    mappings: Vec<MappingRecord>,
    pages: Vec<PagesRecord>,
    descriptors: Vec<DescriptorRecord>,
    settings: Vec<SettingRecord>,
}

#[derive(Serialize)]
struct MappingRecord {
    range: String,
    bytes: u64,
    shows: String,
    change: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

#[derive(Serialize)]
struct PagesRecord {
    range: String,
    shows: String,
    #[serde(flatten)]
    count: CountRecord,
}

#[derive(Serialize)]
struct CountRecord {
    changed_pages: u64,
    added_pages: u64,
    removed_pages: u64,
    /// Of the pages that changed or were added.
    bytes: u64,
}

#[derive(Serialize)]
struct DescriptorRecord {
    fd: i32,
    change: &'static str,
    before: Option<String>,
    after: Option<String>,
}

#[derive(Serialize)]
struct SettingRecord {
    what: String,
    before: String,
    after: String,
}

#[derive(Serialize)]
struct ObjectRecord {
    object: String,
    change: &'static str,
    #[serde(flatten)]
    count: CountRecord,
}

/// What a program wrote into its layers.
fn layers(store: &Store, target: &str, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    use frost_runtime::layer::{Change, changes};
    let what = || format!("cannot tell what {target} wrote");
    let changes =
        changes(store, target).map_err(|error| trouble::of_runtime(what(), error))?.ok_or_else(|| {
            Told::new(Status::Usage, what())
                .cause("it has no layer")
                .state("nothing was changed")
                .hint("`frost run --layer DIR` gives it one; `frost diff A B` compares two images")
        })?;
    invocation.steps.end("layer.changes");
    for (path, change) in changes {
        let (letter, change) = match change {
            Change::Added => ('A', "added"),
            Change::Changed => ('C', "changed"),
            Change::Removed => ('D', "removed"),
        };
        if invocation.global.json {
            output::record(&ChangeRecord { path: path.to_string(), change })?;
        } else {
            output::line(&output::printable(&format!("{letter} {path}")))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn run(options: &Options, invocation: &mut Invocation) -> Result<ExitCode, Failure> {
    let store = invocation.store()?;
    let Some(after) = &options.after else { return layers(&store, &options.before, invocation) };
    let (before, after) = (open(&store, &options.before)?, open(&store, after)?);
    invocation.steps.end("image.open");
    let progress = Progress::start(format!("comparing {} with {}", before.id(), after.id()));
    let what = || format!("cannot compare {} with {}", before.id(), after.id());
    let difference = frost_view::difference(&before, &after, &mut |done| {
        progress.update(done, after.header().pack.len_bytes)
    })
    .map_err(|error| match error {
        Error::Store(error) => trouble::of_store(what(), error),
        error => Told::new(Status::Failed, what())
            .chain(&error)
            .state("both images are as they were")
            .hint("`frost verify` tells whether an image is damaged")
            .into(),
    })?;
    drop(progress);
    invocation.steps.end("image.compare");
    if invocation.global.json {
        output::record(&record(before.id(), after.id(), &difference))?;
    } else {
        let paint = Paint::for_stdout();
        output::line(render(before.id(), after.id(), &difference, paint).trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn open(store: &Store, spec: &str) -> Result<Image, Failure> {
    let failed = |error| trouble::of_store(format!("cannot compare {spec}"), error);
    let id = store.resolve(spec).map_err(failed)?;
    store.open_image(&id).map_err(failed)
}

fn record(before: &ImageId, after: &ImageId, difference: &Difference) -> Record {
    Record {
        before: before.to_string(),
        after: after.to_string(),
        gone: named_records(&difference.gone),
        come: named_records(&difference.come),
        same: difference.same,
        changed: difference.changed.iter().map(process_record).collect(),
        objects: difference
            .objects
            .iter()
            .map(|object| ObjectRecord {
                object: object.object.clone(),
                change: presence_word(object.presence),
                count: count_record(object.count),
            })
            .collect(),
        ipc: difference.ipc.iter().map(setting_record).collect(),
    }
}

fn setting_record(setting: &Setting) -> SettingRecord {
    SettingRecord { what: setting.what.clone(), before: setting.before.clone(), after: setting.after.clone() }
}

fn named_records(all: &[Named]) -> Vec<NamedRecord> {
    all.iter().map(|named| NamedRecord { id: named.id, name: named.name.clone() }).collect()
}

fn count_record(count: PageCount) -> CountRecord {
    CountRecord {
        changed_pages: count.changed,
        added_pages: count.added,
        removed_pages: count.removed,
        bytes: count.written_bytes(),
    }
}

const fn presence_word(presence: Presence) -> &'static str {
    match presence {
        Presence::Both => "changed",
        Presence::Gone => "removed",
        Presence::Come => "added",
    }
}

fn process_record(process: &ProcessDifference) -> ProcessRecord {
    let range = |start: u64, end: u64| format!("{start:x}-{end:x}");
    ProcessRecord {
        pid: process.process.id,
        command: process.process.name.clone(),
        threads_gone: named_records(&process.threads_gone),
        threads_come: named_records(&process.threads_come),
        threads_moved: named_records(&process.threads_moved),
        mappings: process
            .mappings
            .iter()
            .map(|mapping| {
                let (change, before, after) = match &mapping.change {
                    MappingChange::Removed => ("removed", None, None),
                    MappingChange::Added => ("added", None, None),
                    MappingChange::Rights { before, after } => {
                        ("rights", Some(before.clone()), Some(after.clone()))
                    }
                    MappingChange::Flags { removed, added } => {
                        ("flags", Some(removed.join(", ")), Some(added.join(", ")))
                    }
                };
                MappingRecord {
                    range: range(mapping.start, mapping.end),
                    bytes: mapping.end - mapping.start,
                    shows: mapping.shows.clone(),
                    change,
                    before,
                    after,
                }
            })
            .collect(),
        pages: process
            .pages
            .iter()
            .map(|pages| PagesRecord {
                range: range(pages.start, pages.end),
                shows: pages.shows.clone(),
                count: count_record(pages.count),
            })
            .collect(),
        descriptors: process
            .descriptors
            .iter()
            .map(|descriptor| DescriptorRecord {
                fd: descriptor.fd,
                change: match (&descriptor.before, &descriptor.after) {
                    (None, _) => "added",
                    (_, None) => "removed",
                    _ if descriptor.same_object() => "state",
                    _ => "object",
                },
                before: descriptor.before.as_ref().map(ToString::to_string),
                after: descriptor.after.as_ref().map(ToString::to_string),
            })
            .collect(),
        settings: process.settings.iter().map(setting_record).collect(),
    }
}

fn render(before: &ImageId, after: &ImageId, difference: &Difference, paint: Paint) -> String {
    let mut text = format!("{before} -> {after}");
    if difference.is_empty() {
        text.push_str(": nothing changed\n");
        return text;
    }
    text.push_str(&format!(
        ": of the processes {} came, {} went, {} changed, {} are as before\n",
        difference.come.len(),
        difference.gone.len(),
        difference.changed.len(),
        difference.same
    ));
    for process in &difference.changed {
        text.push_str(&format!("\n{}\n", title(&process.process, paint)));
        section(&mut text, "threads", threads(process, paint));
        section(&mut text, "mappings", process.mappings.iter().map(|mapping| mapping_row(mapping, paint)));
        section(&mut text, "pages", process.pages.iter().map(|pages| pages_row(pages, paint)));
        let descriptors = process.descriptors.iter().map(|descriptor| descriptor_row(descriptor, paint));
        section(&mut text, "descriptors", descriptors);
        section(&mut text, "settings", process.settings.iter().map(|setting| setting_row(setting, paint)));
    }
    for (processes, was, is) in [(&difference.come, false, true), (&difference.gone, true, false)] {
        for process in processes {
            text.push_str(&format!("\n{} {}\n", change(paint, was, is), title(process, paint)));
        }
    }
    if !difference.objects.is_empty() {
        text.push('\n');
        section(&mut text, "shared", difference.objects.iter().map(|object| object_row(object, paint)));
    }
    if !difference.ipc.is_empty() {
        text.push('\n');
        let rows = difference.ipc.iter().map(|object| ipc_row(object, paint));
        section(&mut text, "shared by number or name", rows);
    }
    text
}

fn title(process: &Named, paint: Paint) -> String {
    let name = output::cut(&output::printable(&process.name), 80);
    paint.bold(&format!("process {} ({name})", process.id))
}

/// The sign of a change: what came, what went, what is there in both and differs.
fn change(paint: Paint, was: bool, is: bool) -> String {
    match (was, is) {
        (false, _) => paint.green("+"),
        (_, false) => paint.red("-"),
        (true, true) => paint.yellow("~"),
    }
}

fn section(text: &mut String, title: &str, rows: impl IntoIterator<Item = Vec<String>>) {
    let rows: Vec<Vec<String>> = rows.into_iter().collect();
    if rows.is_empty() {
        return;
    }
    text.push_str(&format!("  {title}\n"));
    for line in output::table(&rows).lines() {
        text.push_str(&format!("    {line}\n"));
    }
}

fn threads(process: &ProcessDifference, paint: Paint) -> Vec<Vec<String>> {
    let row = |was: bool, is: bool, note: &'static str| {
        move |thread: &Named| {
            let cells = [change(paint, was, is), thread.id.to_string(), output::printable(&thread.name)];
            cells.into_iter().chain([note.to_owned()]).collect::<Vec<_>>()
        }
    };
    let come = process.threads_come.iter().map(row(false, true, ""));
    let gone = process.threads_gone.iter().map(row(true, false, ""));
    let moved = process.threads_moved.iter().map(row(true, true, "has run"));
    come.chain(gone).chain(moved).collect()
}

fn mapping_row(mapping: &Mapping, paint: Paint) -> Vec<String> {
    let (was, is, how) = match &mapping.change {
        MappingChange::Removed => (true, false, String::new()),
        MappingChange::Added => (false, true, String::new()),
        MappingChange::Rights { before, after } => (true, true, format!("{before} -> {after}")),
        MappingChange::Flags { removed, added } => {
            let removed = removed.iter().map(|name| format!("no longer {name}"));
            (
                true,
                true,
                removed.chain(added.iter().map(|name| format!("now {name}"))).collect::<Vec<_>>().join(", "),
            )
        }
    };
    vec![
        change(paint, was, is),
        format!("{:x}-{:x}", mapping.start, mapping.end),
        output::bytes(mapping.end - mapping.start),
        output::printable(&mapping.shows),
        how,
    ]
}

fn count_text(count: PageCount) -> String {
    let parts = [(count.changed, "changed"), (count.added, "added"), (count.removed, "removed")];
    let words: Vec<String> =
        parts.iter().filter(|(pages, _)| *pages > 0).map(|(pages, word)| format!("{pages} {word}")).collect();
    let bytes = (count.changed + count.added + count.removed) * PAGE_SIZE;
    format!("{}: {}", output::bytes(bytes), words.join(", "))
}

fn pages_row(pages: &RegionPages, paint: Paint) -> Vec<String> {
    vec![
        change(paint, true, true),
        format!("{:x}-{:x}", pages.start, pages.end),
        output::printable(&pages.shows),
        count_text(pages.count),
    ]
}

fn descriptor_row(descriptor: &DescriptorChange, paint: Paint) -> Vec<String> {
    let sign = change(paint, descriptor.before.is_some(), descriptor.after.is_some());
    let text = match (&descriptor.before, &descriptor.after) {
        (Some(before), Some(after)) if descriptor.same_object() => {
            format!("{}: {} -> {}", after.object, before.state, after.state)
        }
        (Some(before), Some(after)) => format!("{before} -> {after}"),
        (before, after) => after.as_ref().or(before.as_ref()).map(ToString::to_string).unwrap_or_default(),
    };
    vec![sign, format!("fd {}", descriptor.fd), output::printable(&text)]
}

fn setting_row(setting: &Setting, paint: Paint) -> Vec<String> {
    vec![
        change(paint, true, true),
        output::printable(&setting.what),
        output::printable(&format!("{} -> {}", setting.before, setting.after)),
    ]
}

fn ipc_row(object: &Setting, paint: Paint) -> Vec<String> {
    let (was, is) = (!object.before.is_empty(), !object.after.is_empty());
    let state = match (was, is) {
        (true, true) => format!("{} -> {}", object.before, object.after),
        _ => format!("{}{}", object.before, object.after),
    };
    vec![change(paint, was, is), output::printable(&object.what), state]
}

fn object_row(object: &ObjectDifference, paint: Paint) -> Vec<String> {
    let (was, is) = (object.presence != Presence::Come, object.presence != Presence::Gone);
    vec![change(paint, was, is), output::printable(&object.object), count_text(object.count)]
}
