//! The log: lines are queued without waiting and written by one thread, so that no disk and no reader holds up the relay.

mod outage;
mod probe;
mod sink;
mod standard;
mod throttle;

pub use probe::probe;
pub use sink::{Target, reach_journal};
pub use standard::Standard;
pub use throttle::Throttle;

use crate::config::{Level, Logger};
use crate::error::{Exit, Failure};
use log::kv::{Key, Value, VisitSource};
use log::{LevelFilter, Log, Metadata, Record};
use nix::sys::stat::{Mode, umask};
use serde::{Deserialize, Serialize};
use sink::Sink;
use std::collections::VecDeque;
use std::fmt::{self, Write as _};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError, TrySendError};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

/// The most lines that wait to be written.
pub const QUEUE: usize = 1024;
/// The longest line, in bytes; the rest of a longer one is cut.
pub const MAX_LINE: usize = 4096;
/// How many warnings and errors are remembered.
pub const NOTICES: usize = 50;
/// The permissions that no file of the log gets: any for others, and to write for its group.
const MASK: Mode = Mode::from_bits_truncate(0o027);
/// How long the end of the program waits for what is queued.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// Journal fields (systemd.journal-fields(7)) that a line may carry besides its message.
pub const PEER: &str = "RECODEX_PEER";
/// The field for the channel id.
pub const CHANNEL: &str = "RECODEX_CHANNEL";
/// The field for the code of a WebSocket close.
pub const CLOSE_CODE: &str = "RECODEX_CLOSE_CODE";

/// One line on its way to the log.
#[derive(Debug)]
pub(crate) struct Line {
    time: SystemTime,
    level: log::Level,
    message: String,
    fields: Vec<(&'static str, String)>,
}

enum Order {
    Line(Line),
    /// Look for changed settings.
    Reopen,
    /// Write everything, then say so.
    Flush(SyncSender<()>),
}

/// Lines for which the queue had no room.
#[derive(Default)]
struct Dropped {
    waiting: Mutex<(u64, Option<SystemTime>)>,
    total: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Dropped {
    fn add(&self) {
        self.total.fetch_add(1, Ordering::Relaxed);
        let (count, since) = &mut *locked(&self.waiting);
        *count += 1;
        since.get_or_insert_with(SystemTime::now);
    }

    /// How many there were, and when the first one was; they are then forgotten.
    fn take(&self) -> (u64, SystemTime) {
        let (count, since) = std::mem::take(&mut *locked(&self.waiting));
        (count, since.unwrap_or_else(SystemTime::now))
    }
}

/// A warning or an error, as it was logged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    /// When, in seconds since the Unix epoch.
    pub time: f64,
    /// `warning` or `error`.
    pub level: String,
    /// What.
    pub text: String,
}

/// The last notices, and how many there were.
type Notices = (VecDeque<Notice>, u64);

struct Queue {
    orders: SyncSender<Order>,
    dropped: Dropped,
    notices: Mutex<Notices>,
    /// Settings to open the target anew with; here, since an order may find no room.
    changed: Mutex<Option<Logger>>,
}

static QUEUE_OF_LOG: OnceLock<Queue> = OnceLock::new();

impl Log for Queue {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // Of what libraries say, only what is worth a warning concerns an administrator.
        metadata.target().starts_with("recodex_monitor") || metadata.level() <= LevelFilter::Warn
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            self.push(record.level(), &record.args().to_string(), fields(record));
        }
    }

    fn flush(&self) {}
}

impl Queue {
    fn push(&self, level: log::Level, text: &str, fields: Vec<(&'static str, String)>) {
        let line = Line { time: SystemTime::now(), level, message: cut(escape(text)), fields };
        if level <= log::Level::Warn {
            let time = line.time.duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
            let name = if level == log::Level::Warn { "warning" } else { "error" };
            let notice = Notice { time, level: name.into(), text: line.message.clone() };
            let (notices, count) = &mut *locked(&self.notices);
            notices.truncate(NOTICES - 1);
            notices.push_front(notice);
            *count += 1;
        }
        if let Err(TrySendError::Full(_)) = self.orders.try_send(Order::Line(line)) {
            self.dropped.add();
        }
    }
}

/// The journal fields among a record's key-value pairs.
fn fields(record: &Record<'_>) -> Vec<(&'static str, String)> {
    struct Known(Vec<(&'static str, String)>);
    impl<'kvs> VisitSource<'kvs> for Known {
        fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), log::kv::Error> {
            if let Some(known) = [PEER, CHANNEL, CLOSE_CODE].into_iter().find(|known| *known == key.as_str()) {
                self.0.push((known, value.to_string()));
            }
            Ok(())
        }
    }
    let mut known = Known(Vec::new());
    let _ = record.key_values().visit(&mut known);
    known.0
}

fn cut(mut line: String) -> String {
    if line.len() > MAX_LINE {
        let end = (0..=MAX_LINE).rev().find(|end| line.is_char_boundary(*end)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

/// The log before it is open. Lines wait in the queue meanwhile.
pub struct Waiting {
    queue: &'static Queue,
    orders: Receiver<Order>,
}

/// The log before its thread runs.
pub struct Opened {
    waiting: Waiting,
    sink: Sink,
}

/// Takes lines from now on, from `level` up. May be called once in a process.
///
/// # Errors
/// [`Exit::Software`] if it is called twice.
pub fn begin(level: Level) -> Result<Waiting, Failure> {
    let (sender, orders) = mpsc::sync_channel(QUEUE);
    let new =
        Queue { orders: sender, dropped: Dropped::default(), notices: Mutex::default(), changed: Mutex::new(None) };
    let queue = QUEUE_OF_LOG.get_or_init(|| new);
    log::set_logger(queue).map_err(|_| Failure::new(Exit::Software, "the log was begun twice"))?;
    log::set_max_level(level.filter());
    Ok(Waiting { queue, orders })
}

impl Waiting {
    /// Opens what the lines go to. From here on every file that this process makes has the mode 0640 at most; the Unix socket, which
    /// has a mode of its own, sets the mask for itself. There must be no threads yet.
    ///
    /// # Errors
    /// [`Exit::Config`] if the target cannot be written to.
    pub fn open(self, settings: &Logger) -> Result<Opened, Failure> {
        // By the mask: the library that rotates opens files without a mode.
        umask(umask(MASK) | MASK);
        Ok(Opened { waiting: self, sink: Sink::open(settings)? })
    }

    /// Has every line printed by `print`, in the form of those on standard error.
    pub fn open_with(self, print: impl FnMut(&str) -> io::Result<()> + Send + 'static) -> Opened {
        Opened { waiting: self, sink: Sink::printing(Box::new(print)) }
    }
}

impl Opened {
    /// Starts the thread that writes. Privileges must have been dropped before: a thread keeps those it was born with.
    ///
    /// # Errors
    /// [`Exit::Software`] if there can be no thread.
    pub fn start(self) -> Result<(), Failure> {
        let Self { waiting: Waiting { queue, orders }, mut sink } = self;
        let write = move || {
            loop {
                let order = match orders.try_recv() {
                    Ok(order) => order,
                    Err(TryRecvError::Disconnected) => return,
                    Err(TryRecvError::Empty) => {
                        // What was dropped is told when the rush is over.
                        sink.report(&queue.dropped);
                        let Ok(order) = orders.recv() else { return };
                        order
                    }
                };
                if let Some(settings) = locked(&queue.changed).take() {
                    sink.reopen(&settings);
                }
                match order {
                    Order::Line(line) => sink.write(&line),
                    Order::Reopen => {}
                    Order::Flush(done) => drop(done.try_send(())),
                }
            }
        };
        let thread = std::thread::Builder::new().name("log".into()).stack_size(128 * 1024);
        thread.spawn(write).map_err(|e| Failure::new(Exit::Software, format!("cannot start the log's thread: {e}")))?;
        Ok(())
    }
}

/// Logs a line whatever the level is, because somebody asked for it.
pub fn say(text: &str) {
    if let Some(queue) = QUEUE_OF_LOG.get() {
        queue.push(log::Level::Info, text, Vec::new());
    }
}

/// The last warnings and errors, the oldest first.
#[must_use]
pub fn notices() -> Vec<Notice> {
    QUEUE_OF_LOG.get().map_or_else(Vec::new, |queue| locked(&queue.notices).0.iter().rev().cloned().collect())
}

/// How many warnings and errors there were.
#[must_use]
pub fn noticed() -> u64 {
    QUEUE_OF_LOG.get().map_or(0, |queue| locked(&queue.notices).1)
}

/// How many lines found no room in the queue.
#[must_use]
pub fn dropped() -> u64 {
    QUEUE_OF_LOG.get().map_or(0, |queue| queue.dropped.total.load(Ordering::Relaxed))
}

/// Takes up changed settings, and opens a log file anew.
pub fn reload(settings: &Logger) {
    log::set_max_level(settings.level.filter());
    if let Some(queue) = QUEUE_OF_LOG.get() {
        *locked(&queue.changed) = Some(settings.clone());
        let _ = queue.orders.try_send(Order::Reopen);
    }
}

/// Waits, for a second at the most, until everything is written.
pub fn close() {
    let Some(queue) = QUEUE_OF_LOG.get() else { return };
    let (done, written) = mpsc::sync_channel(1);
    if queue.orders.try_send(Order::Flush(done)).is_ok() {
        let _ = written.recv_timeout(CLOSE_TIMEOUT);
    }
}

/// True for a character that is written as an escape, since it could forge or garble a line, hide in it, or change the order of its text.
///
/// That is, by the general categories of Unicode 16.0, Cc (controls), Cf (format characters, with the marks of direction and the tags),
/// Zl and Zp (separators of lines and paragraphs); and by `DerivedCoreProperties.txt` what is `Default_Ignorable_Code_Point`, which
/// is not drawn: fillers, variation selectors, and code points reserved for such characters. Characters for private use and
/// those not assigned yet are drawn in their place, as a box at worst, and stay as they are.
fn is_escaped(c: char) -> bool {
    matches!(c,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}'
        | '\u{70f}' | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
        | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{110bd}'
        | '\u{110cd}' | '\u{13430}'..='\u{1343f}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

/// Text with every character that could forge or garble a line written as an escape.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if is_escaped(c) {
                write!(self.0, "{}", c.escape_default())?;
            } else {
                self.0.push(c);
            }
        }
        Ok(())
    }
}

/// Makes text from outside fit to be printed on one line.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let _ = Escaped(&mut escaped).write_str(text);
    escaped
}

/// A channel id for the log: at most half of it, and eight characters. Who knows an id may watch its job.
#[derive(Debug)]
pub struct Abridged<'a>(pub &'a str);

impl fmt::Display for Abridged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = (self.0.chars().count() / 2).min(8);
        for c in self.0.chars().take(shown) {
            f.write_char(c)?;
        }
        f.write_str("…")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_cannot_forge_a_line() {
        let escaped = "a\\n[x]\\r\\u{1b}[31m\\u{7f}\\u{85}\\u{202e}é";
        assert_eq!(escape("a\n[x]\r\u{1b}[31m\u{7f}\u{85}\u{202e}é"), escaped);
    }

    /// The tables of the crate `regex-syntax`, for Unicode 16.0, decide.
    #[test]
    fn exactly_what_controls_formats_separates_or_is_not_drawn_is_escaped() {
        let class = r"[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}]";
        let hir = regex_syntax::parse(class).expect("a class of characters");
        let regex_syntax::hir::HirKind::Class(regex_syntax::hir::Class::Unicode(class)) = hir.kind() else {
            panic!("not a class: {hir:?}")
        };
        let known = |c: char| class.ranges().iter().any(|range| (range.start()..=range.end()).contains(&c));
        let differ: Vec<char> = ('\0'..=char::MAX).filter(|c| is_escaped(*c) != known(*c)).collect();
        assert_eq!(differ, Vec::new());
    }

    #[test]
    fn what_hides_or_turns_text_is_escaped() {
        for (text, escaped) in [
            ("a\u{61c}b", r"a\u{61c}b"),
            ("a\u{2060}b\u{ad}", r"a\u{2060}b\u{ad}"),
            ("\u{e0001}\u{e0041}\u{e007f}\u{fe0f}", r"\u{e0001}\u{e0041}\u{e007f}\u{fe0f}"),
            ("\u{180e}\u{fff9}\u{fffb}\u{110bd}\u{1d173}", r"\u{180e}\u{fff9}\u{fffb}\u{110bd}\u{1d173}"),
            ("Příliš žluťoučký 学生 🎓 e\u{301}", "Příliš žluťoučký 学生 🎓 e\u{301}"),
        ] {
            assert_eq!(escape(text), escaped);
        }
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        assert_eq!(cut("é".repeat(MAX_LINE / 2)).len(), MAX_LINE);
        assert_eq!(cut(format!("x{}", "é".repeat(MAX_LINE / 2))), format!("x{}…", "é".repeat(MAX_LINE / 2 - 1)));
    }

    #[test]
    fn an_id_is_never_shown_whole() {
        for (id, shown) in [("", "…"), ("a", "…"), ("ab", "a…"), ("student_5d1f3c9e-0b7a", "student_…")] {
            assert_eq!(Abridged(id).to_string(), shown);
        }
    }
}
