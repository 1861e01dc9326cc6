//! Compares crates/storport with the tables of docs/locking.md that say what each callback may do:
//! which context, or guard of a lock, offers which routine. The call of each entry is compiled. It
//! must compile if it is offered. Otherwise the crate's own message must refuse it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
    fs,
    path::Path,
};

use super::{compile, read};

/// A routine, a call of it, and what the compiler may say when the context does not offer it: words
/// of the crate, or the code of the error where the routine takes one context only.
type Call = (&'static str, &'static str, &'static [&'static str]);

const SET_UP: &[&str] = &["this may only be called in HwFindAdapter"];
const AT_DISPATCH: &[&str] = &["may run above DISPATCH_LEVEL"];
const POOL: &[&str] = &["pool memory and work items are not available in"];
const RUNNING: &[&str] = &["the adapter is not ready in"];
const LOCK: &[&str] = &["no lock may be taken in", "wrong lock order"];
const HELD: &[&str] = &[OPEN[0], LOCK[0], "E0271"];
const OPEN: &[&str] = &["does not prove that the lock of this cell is held"];
const ONE_CONTEXT: &[&str] = &["E0308"];

const CALLS: &[Call] = &[
    ("is_dump", "cx.is_dump()", &[]),
    ("microseconds", "cx.microseconds()", &[]),
    ("stall", "cx.stall(1)", &["waiting is not allowed in"]),
    ("data_in", "cx.data_in(&mut has.srb)", AT_DISPATCH),
    ("data_out", "cx.data_out(&mut has.srb)", AT_DISPATCH),
    ("scatter_gather", "cx.scatter_gather(&has.srb)", AT_DISPATCH),
    ("processors", "cx.processors()", AT_DISPATCH),
    ("processor", "cx.processor()", AT_DISPATCH),
    ("log_event", "cx.log_event(&has.event)", AT_DISPATCH),
    ("allocate", "cx.allocate(1, |_| 0_u8)", POOL),
    ("free", "cx.free(has.pool)", POOL),
    (
        "registry_u32",
        "cx.registry_u32(c\"\")",
        &["does not run at PASSIVE_LEVEL"],
    ),
    (
        "optimize",
        "cx.optimize(&Performance::default(), &mut [])",
        &["performance options cannot be set in"],
    ),
    (
        "has_message",
        "cx.has_message(1)",
        &["the connected messages cannot be queried in"],
    ),
    (
        "start_io_parameters",
        "cx.start_io_parameters(&has.srb)",
        &["the message and the channel of a request cannot be queried in"],
    ),
    ("busy", "cx.busy(1)", &[AT_DISPATCH[0], RUNNING[0]]),
    (
        "queue_work",
        "cx.queue_work::<M>(0)",
        &[POOL[0], RUNNING[0]],
    ),
    (
        "watch_registry",
        "cx.watch_registry::<M>()",
        &["does not run at PASSIVE_LEVEL", RUNNING[0]],
    ),
    (
        "request_timer",
        "cx.request_timer::<M>(core::num::NonZero::<u32>::MIN)",
        RUNNING,
    ),
    ("cancel_timer", "cx.cancel_timer::<M>()", RUNNING),
    (
        "report_change",
        "cx.report_change::<M>(has.changed)",
        RUNNING,
    ),
    ("bus_changed", "cx.bus_changed(0)", RUNNING),
    ("reset_detected", "cx.reset_detected(0)", RUNNING),
    ("pause", "cx.pause(1)", RUNNING),
    ("resume", "cx.resume()", RUNNING),
    ("is_traced", "cx.is_traced::<M>()", RUNNING),
    ("pci_configuration", "cx.pci_configuration()", SET_UP),
    ("map", "cx.map(0)", SET_UP),
    ("map_range", "cx.map_range(0)", SET_UP),
    ("has_messages", "cx.has_messages()", SET_UP),
    ("configure", "cx.configure(&has.limits)", SET_UP),
    (
        "uncached_extension",
        "cx.uncached_extension(&has.configured, 1)",
        SET_UP,
    ),
    ("table", "cx.table(1, |_, _| Some(0_u8))", SET_UP),
    ("start_io_locked", "cx.start_io_locked(0)", SET_UP),
    ("dpc_locked", "cx.dpc_locked(0)", SET_UP),
    (
        "threaded_dpc_locked",
        "cx.threaded_dpc_locked::<M, u8>(0)",
        SET_UP,
    ),
    ("interrupt_locked", "cx.interrupt_locked(0)", SET_UP),
    ("message_locked", "cx.message_locked(0, 0)", SET_UP),
    ("issue", "has.dpc.issue(cx)", &["may not issue a DPC"]),
    ("StartIo with", "has.start_io.with(cx, |_| ())", LOCK),
    ("Dpc with", "has.dpc.with(cx, |_| ())", LOCK),
    ("Interrupt with", "has.interrupt.with(cx, |_| ())", LOCK),
    ("Message with", "has.message.with(cx, |_| ())", LOCK),
    ("synchronize", "has.interrupt.synchronize(cx, |_| ())", LOCK),
    (
        "with_at_dpc_level",
        "has.dpc.with_at_dpc_level(cx, |_| ())",
        &["is not known to run at DISPATCH_LEVEL", LOCK[0], LOCK[1]],
    ),
    (
        "with_in_threaded_dpc",
        "has.dpc.with_in_threaded_dpc(cx, |_| ())",
        ONE_CONTEXT,
    ),
    ("StartIo open", "has.start_io.open(cx)", OPEN),
    ("Dpc open", "has.dpc.open(cx)", OPEN),
    ("Interrupt open", "has.interrupt.open(cx)", OPEN),
    ("Message open", "has.message.open(cx)", OPEN),
    ("open_with", "has.start_io.open_with(cx, |_, _| ())", OPEN),
    (
        "StartIo with_held",
        "has.start_io.with_held(cx, |_| ())",
        HELD,
    ),
    ("Dpc with_held", "has.dpc.with_held(cx, |_| ())", HELD),
    (
        "Interrupt with_held",
        "has.interrupt.with_held(cx, |_| ())",
        HELD,
    ),
    (
        "Message with_held",
        "has.message.with_held(cx, |_| ())",
        HELD,
    ),
    (
        "Interrupt open_in",
        "has.interrupt.open_in(cx)",
        ONE_CONTEXT,
    ),
    ("Message open_in", "has.message.open_in(cx)", ONE_CONTEXT),
    (
        "Send",
        "fn sent<T: Send>(_: T) {} sent(cx)",
        &["cannot be sent between threads"],
    ),
    (
        "Sync",
        "fn shared<T: Sync>(_: &T) {} shared(cx)",
        &["cannot be shared between threads"],
    ),
];

/// What the calls use, of one adapter.
const HAS: &str = "\
use storport::*;
pub trait Optional: callback::Timer + callback::Work + callback::StateChange
    + callback::RegistryChange + callback::Tracing + callback::ThreadedDpc {}
pub struct Has<'a> {
    srb: Srb<'a>, event: Event<'a>, pool: Pool<'a, u8>, changed: Changed, limits: AdapterLimits,
    configured: Configured<'a>, start_io: StartIoLocked<'a, u8>, dpc: DpcLocked<'a, u8>,
    interrupt: InterruptLocked<'a, u8>, message: MessageLocked<'a, u8>,
}
";

/// Which routines each context, or each way to get a guard, offers: the tables of docs/locking.md
/// whose first column is "Context". The keys are a context or a way, and a routine.
fn rights() -> BTreeMap<(String, String), bool> {
    let page = read("docs/locking.md");
    let mut header: Vec<&str> = Vec::new();
    let mut rights = BTreeMap::new();
    for line in page.lines() {
        let row: Vec<_> = line.split('|').map(str::trim).collect();
        match row[..] {
            ["", "Context", ..] => header = row,
            [_] => header.clear(),
            _ if header.is_empty() || row[1].starts_with("---") => {}
            _ => {
                assert_eq!(row.len(), header.len(), "{line}");
                for (of, (routines, mark)) in code(row[1]).flat_map(|of| {
                    let cells = header.iter().zip(&row).skip(2);
                    cells.map(move |cell| (of.clone(), cell))
                }) {
                    assert!(matches!(*mark, "yes" | ""), "{line}");
                    for routine in code(routines) {
                        let again = rights.insert((of.clone(), routine), *mark == "yes");
                        assert_eq!(again, None, "a second cell: {line}");
                    }
                }
            }
        }
    }
    rights
}

/// The texts between backticks.
fn code(text: &str) -> impl Iterator<Item = String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned)
}

/// Functions that make a call, in one line each, without `fn` and their names.
fn functions(of: &str, call: &str) -> Vec<String> {
    let function = |cx, outer: &str, body: &str| {
        format!("<'a, M: Optional>(cx: &mut {cx}<'_, 'a>, {outer} mut has: Has<'a>) {{ {body}; }}")
    };
    let Some((lock, with)) = of.split_once("::") else {
        return vec![function(of, "", call)];
    };
    // Locks are taken with the guard, or with its part `Held`.
    ["", "let (_, cx) = cx.split();"]
        .map(|part| format!("outer.{with}(cx, |cx| {{ {part} {call}; }})"))
        .map(|body| function("BuildIo", &format!("outer: &{lock}<'a, u8>,"), &body))
        .to_vec()
}

#[test]
fn a_call_compiles_if_and_only_if_it_is_offered() {
    let rights = rights();
    let calls: BTreeMap<_, _> = CALLS.iter().map(|call| (call.0, call)).collect();
    let mut text = HAS.to_owned();
    let mut lines = BTreeMap::new();
    for cell @ (of, routine) in rights.keys() {
        for function in functions(of, calls[&**routine].1) {
            lines.insert(HAS.lines().count() + lines.len() + 1, cell);
            writeln!(text, "fn _{}{function}", lines.len()).expect("a line");
        }
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cells.rs");
    fs::write(&file, text).expect("the calls are written");

    let mut errors: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for error in compile("rights", &file)
        .into_iter()
        .filter(|error| error.is_error)
    {
        let is_of_a_call = error.place.0 == "cells.rs" && lines.contains_key(&error.place.1);
        assert!(is_of_a_call, "not in a call: {error:?}");
        errors.entry(error.place.1).or_default().push(error);
    }
    let mut faults = Vec::new();
    for (line, cell @ (of, routine)) in lines {
        let errors = errors.remove(&line).unwrap_or_default();
        let (_, call, words) = calls[&**routine];
        // A guard has no routines.
        let of_guard = of.contains("::") && call.starts_with("cx.");
        let words = if of_guard { &["E0599"] } else { *words };
        let is_refusal = |error: &super::Diagnostic| {
            words
                .iter()
                .any(|words| error.code == *words || error.text.contains(words))
        };
        if errors.is_empty() != rights[cell] || !errors.iter().all(is_refusal) {
            let errors: Vec<_> = errors
                .iter()
                .map(|error| (&error.code, error.text.lines().next()))
                .collect();
            faults.push(format!(
                "{of}, {routine}: the table says {}; {errors:?}",
                rights[cell]
            ));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The blocks of the macro `routines!`: the contexts whose pages show the routines, the other
/// contexts, and the routines.
fn blocks(text: &str) -> impl Iterator<Item = [BTreeSet<String>; 3]> {
    let words = |list: &str| list.split_whitespace().map(str::to_owned).collect();
    text.split("\nroutines! {\n").skip(1).map(move |block| {
        let (block, _) = block.split_once("\n}\n").expect("the end of the block");
        let lists: Vec<_> = block.split(['[', ']']).collect();
        let [shown, hidden] = [lists[1], lists[3]].map(words);
        [shown, hidden, public_functions(block)]
    })
}

fn public_functions(text: &str) -> BTreeSet<String> {
    let functions = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub fn "));
    functions
        .map(|rest| rest.split(['(', '<']).next().unwrap_or(rest).to_owned())
        .collect()
}

/// The tables are complete, and the pages of the contexts show what the tables say.
#[test]
fn the_tables_have_every_context_and_every_routine_as_the_documentation_shows_them() {
    let rights = rights();
    let routines: BTreeSet<_> = rights.keys().map(|(_, routine)| routine.as_str()).collect();
    assert_eq!(
        routines,
        CALLS.iter().map(|call| call.0).collect(),
        "the columns"
    );
    let (guards, contexts): (BTreeSet<_>, BTreeSet<_>) = rights
        .keys()
        .map(|(of, _)| of.clone())
        .partition(|of| of.contains("::"));
    assert_eq!(
        rights.len(),
        routines.len() * (contexts.len() + guards.len()),
        "the cells"
    );

    let source = read("crates/storport/src/context.rs");
    let rows = source
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.strip_suffix(';'));
    let names = rows.filter_map(|row| row.split(" {").next());
    let named = |name: &&str| name.starts_with(char::is_uppercase) && !name.contains(' ');
    let defined: BTreeSet<_> = names
        .filter(named)
        .chain(["FindAdapter"])
        .map(str::to_owned)
        .collect();
    assert_eq!(contexts, defined, "the rows, and the contexts of the crate");

    for file in ["routines.rs", "find_adapter.rs"] {
        for [shown, hidden, routines] in blocks(&read(format!("crates/storport/src/{file}"))) {
            assert_eq!(
                contexts,
                &shown | &hidden,
                "{file}: the contexts of {routines:?}"
            );
            for routine in routines {
                for context in &contexts {
                    let right = rights.get(&(context.clone(), routine.clone()));
                    assert_eq!(
                        right,
                        Some(&shown.contains(context)),
                        "{file}: {routine} of {context}"
                    );
                }
            }
        }
    }

    let methods: BTreeSet<_> = routines
        .iter()
        .filter_map(|routine| routine.split(' ').next_back())
        .collect();
    for method in public_functions(&read("crates/storport/src/lock.rs")) {
        let needs_no_context = matches!(&*method, "split" | "number");
        assert!(
            needs_no_context || methods.contains(&*method),
            "lock.rs: {method}"
        );
    }

    // The table in the documentation of the contexts.
    for row in source
        .lines()
        .filter_map(|line| line.strip_prefix("//! | ["))
    {
        let cells: Vec<_> = row.split('|').map(str::trim).collect();
        for context in code(cells[0]) {
            let taken = ["StartIo", "Dpc", "Interrupt"]
                .map(|lock| rights[&(context.clone(), format!("{lock} with"))]);
            let expected = match taken {
                [true, true, true] => "all",
                [false, true, true] => "Dpc, Interrupt",
                _ => "nothing",
            };
            assert!(
                cells[3].starts_with(expected),
                "context.rs: {context}: {taken:?}"
            );
        }
    }
}
