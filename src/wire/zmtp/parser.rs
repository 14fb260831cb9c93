//! The parser: finds messages and commands in place, in one buffer.

use super::command::Command;
use super::frame::Flags;
use super::handshake::check_greeting;
use super::{BUFFER, Event, GREETING, MAX_MESSAGE, MAX_PARTS, Parts, Stage, Violation};

/// Takes bytes as they come and returns events. The same bytes give the same events, however they are split.
#[derive(Debug)]
pub struct Parser {
    buffer: Box<[u8]>,
    /// The end of the bytes received.
    filled: usize,
    /// The begin of the message whose frames are being collected.
    start: usize,
    /// The next byte to parse.
    next: usize,
    /// The frames collected, relative to `start`.
    parts: [(usize, usize); MAX_PARTS],
    count: usize,
    /// The bytes in the frames collected.
    size: usize,
    stage: Stage,
}

/// The body of a whole frame, by its indices in the buffer.
struct Frame {
    start: usize,
    end: usize,
    flags: Flags,
}

impl Default for Parser {
    fn default() -> Self {
        Self {
            buffer: vec![0; BUFFER].into_boxed_slice(),
            filled: 0,
            start: 0,
            next: 0,
            parts: [(0, 0); MAX_PARTS],
            count: 0,
            size: 0,
            stage: Stage::Greeting,
        }
    }
}

impl Parser {
    /// Creates a parser that goes on at `stage`, with the bytes that another one had received and not parsed.
    ///
    /// # Panics
    /// If `unparsed` is longer than `BUFFER`.
    #[must_use]
    pub fn resume(stage: Stage, unparsed: &[u8]) -> Self {
        assert!(unparsed.len() <= BUFFER);
        let mut parser = Self { stage, ..Self::default() };
        parser.buffer[..unparsed.len()].copy_from_slice(unparsed);
        parser.filled = unparsed.len();
        parser
    }

    /// Returns the link's stage.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Returns the bytes received that belong to no event yet, with the commands between the frames of an unfinished message.
    #[must_use]
    pub fn unparsed(&self) -> &[u8] {
        &self.buffer[self.start..self.filled]
    }

    /// Returns the space for received bytes, which is never empty. Call [`Parser::received`] then, and [`Parser::event`] until it
    /// returns `None`.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.filled {
            (self.start, self.next, self.filled) = (0, 0, 0);
        } else if self.buffer.len() - self.filled < MAX_MESSAGE / 2 {
            self.buffer.copy_within(self.start..self.filled, 0);
            self.filled -= self.start;
            self.next -= self.start;
            self.start = 0;
        }
        &mut self.buffer[self.filled..]
    }

    /// Notes that `count` bytes were put into [`Parser::space`].
    pub fn received(&mut self, count: usize) {
        self.filled += count;
    }

    /// Returns true if the last read filled the space, so that more is probably waiting.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.filled == self.buffer.len()
    }

    /// Returns true if bytes of an unfinished message or command are waiting.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        self.filled > self.start
    }

    /// Returns the next event, or `None` if more bytes are needed.
    ///
    /// # Errors
    /// If the peer broke a rule or a limit. The parser must not be used afterwards.
    pub fn event(&mut self) -> Result<Option<Event<'_>>, Violation> {
        if self.stage == Stage::Greeting && !self.greeting()? {
            return Ok(None);
        }
        while let Some(frame) = self.frame()? {
            self.next = frame.end;
            if frame.flags.command {
                if self.count == 0 {
                    self.start = frame.end;
                }
                match Command::parse(&self.buffer[frame.start..frame.end], self.stage)? {
                    Some(Command::Ready) => {
                        self.stage = Stage::Traffic;
                        return Ok(Some(Event::Ready));
                    }
                    Some(Command::Ping { context }) => {
                        return Ok(Some(Event::Ping(&self.buffer[frame.start + context..frame.end])));
                    }
                    None => {}
                }
            } else {
                self.collect(&frame);
                if !frame.flags.more {
                    return Ok(Some(Event::Message(self.message())));
                }
            }
        }
        Ok(None)
    }

    /// Takes the greeting; returns false if it is not whole.
    fn greeting(&mut self) -> Result<bool, Violation> {
        let is_whole = check_greeting(&self.buffer[..self.filled.min(GREETING)])?;
        if is_whole {
            (self.start, self.next, self.stage) = (GREETING, GREETING, Stage::Handshake);
        }
        Ok(is_whole)
    }

    /// Returns the frame at `next`, or `None` if it is not whole. Its limits are checked as soon as its header is there.
    fn frame(&self) -> Result<Option<Frame>, Violation> {
        let bytes = &self.buffer[self.next..self.filled];
        let Some(&first) = bytes.first() else { return Ok(None) };
        let flags = Flags::parse(first)?;
        if !flags.command && self.stage == Stage::Handshake {
            return Err(Violation::ExpectedReady);
        }
        let Some((header, body)) = flags.lengths(bytes)? else { return Ok(None) };
        if !flags.command && self.count == MAX_PARTS {
            return Err(Violation::ManyParts);
        }
        let start = self.next + header;
        let end = start + body;
        if (!flags.command && self.size + body > MAX_MESSAGE) || end - self.start > BUFFER - MAX_MESSAGE / 2 {
            return Err(Violation::LongMessage);
        }
        Ok((end <= self.filled).then_some(Frame { start, end, flags }))
    }

    /// Adds a frame to the message.
    fn collect(&mut self, frame: &Frame) {
        self.parts[self.count] = (frame.start - self.start, frame.end - self.start);
        self.count += 1;
        self.size += frame.end - frame.start;
    }

    /// Returns the message collected, and begins the next one.
    fn message(&mut self) -> Parts<'_> {
        let parts = Parts { message: &self.buffer[self.start..self.next], frames: &self.parts[..self.count] };
        (self.start, self.count, self.size) = (self.next, 0, 0);
        parts
    }
}
