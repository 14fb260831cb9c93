//! The questions to the Sentinels: which server is the primary?

use super::away::Away;
use super::connect::Redis;
use crate::config::Server;
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::time::Duration;

/// The time that a Sentinel has for its answer, with the connection to it.
const SENTINEL_TIMEOUT: Duration = Duration::from_millis(500);

/// The answers of the Sentinels, in the order of the configuration: what each names, `Ok(None)` if it knows no such primary.
type Answers = Vec<Option<Result<Option<Server>, Away>>>;

/// Asks all Sentinels at once. Returns when most of all Sentinels have named the same server, or when each has answered or its time is
/// over.
async fn ask(redis: &Redis, name: &str) -> Answers {
    let mut answers: Answers = vec![None; redis.servers().len()];
    let questions = redis
        .servers()
        .iter()
        .enumerate()
        .map(|(at, sentinel)| async move { (at, redis.ask_sentinel(sentinel, name, SENTINEL_TIMEOUT).await) });
    let mut questions: FuturesUnordered<_> = questions.collect();
    while let Some((at, answer)) = questions.next().await {
        answers[at] = Some(answer);
        if most_named(&answers).is_some_and(|(_, count)| count * 2 > answers.len()) {
            break;
        }
    }
    answers
}

/// Returns the server that most answers name, and their number. The first of the configuration counts if there are several.
fn most_named(answers: &Answers) -> Option<(&Server, usize)> {
    let named = || answers.iter().filter_map(|answer| answer.as_ref()?.as_ref().ok()?.as_ref());
    let mut best: Option<(&Server, usize)> = None;
    for server in named() {
        let count = named().filter(|other| *other == server).count();
        if best.is_none_or(|(_, most)| count > most) {
            best = Some((server, count));
        }
    }
    best
}

/// Returns the server that most of the answering Sentinels name.
pub(super) async fn primary(redis: &Redis, name: &str) -> Result<Server, Away> {
    let answers = ask(redis, name).await;
    if let Some((server, _)) = most_named(&answers) {
        return Ok(server.clone());
    }
    let reasons: Result<Vec<_>, ()> = answers.into_iter().flatten().map(|answer| answer.err().ok_or(())).collect();
    Err(reasons.map_or_else(|()| Away::UnknownPrimary(name.into()), Away::NoSentinel))
}

/// Returns the server that more than half of all Sentinels name.
pub(super) async fn majority(redis: &Redis, name: &str) -> Option<Server> {
    let answers = ask(redis, name).await;
    most_named(&answers).filter(|(_, count)| count * 2 > answers.len()).map(|(server, _)| server.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_answers_win_and_the_first_of_the_configuration_if_there_are_as_many_of_others() {
        let server = |port| Server { host: "h".into(), port };
        let yes = |port| Some(Ok(Some(server(port))));
        let away = || Some(Err(Away::UnknownPrimary("x".into())));
        for (answers, expected) in [
            (vec![], None),
            (vec![None, away(), Some(Ok(None))], None),
            (vec![yes(1)], Some((1, 1))),
            (vec![yes(2), yes(1)], Some((2, 1))),
            (vec![yes(2), yes(1), away(), None, yes(1)], Some((1, 2))),
            (vec![yes(2), yes(1), yes(1), yes(2)], Some((2, 2))),
        ] {
            let found = most_named(&answers).map(|(server, count)| (server.port, count));
            assert_eq!(found, expected, "{answers:?}");
        }
    }
}
