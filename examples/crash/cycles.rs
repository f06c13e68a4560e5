//! The cycles: who is hit when and how, all of it drawn from the seed.

use std::time::Duration;

use crate::database::Database;
use crate::finish;
use crate::process::End;
use crate::random::SplitMix64;
use crate::world::{Load, Mode, Segment, World};

/// The settings change after this many cycles, and the same with tasks and ships.
const SEGMENT_CYCLES: u64 = 40;
const TASK_SEGMENT_CYCLES: u64 = 30;
/// With tasks, as many cycles spare the same process, or none: who is never left in peace can't
/// notice that another is dead.
const SPARING_CYCLES: u64 = 10;
/// A process this young is recovering, if it has anything to recover.
const YOUNG_MS: u64 = 60;
const OLD_MS: u64 = 250;
/// With tasks a process may get on with its work for as long.
const BUSY_MS: u64 = 900;
/// With ships: about as long as a window.
const BUSY_WITH_SHIPS_MS: u64 = 2000;
/// A worker that is paused for longer is declared dead.
const SILENT_MS: u64 = 4500;
/// How long a process may take to finish when it is asked to end.
pub(crate) const TERMINATE_PATIENCE: Duration = Duration::from_secs(30);
/// A process that is younger may not have installed its signal handlers yet; a calm cycle waits
/// for longer.
const UNREADY: Duration = Duration::from_millis(OLD_MS);

/// What was done to the processes.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) killed_server: u64,
    pub(crate) killed_consumer: u64,
    pub(crate) killed_worker: u64,
    pub(crate) killed_scheduler: u64,
    pub(crate) killed_spaceship: u64,
    pub(crate) killed_up: u64,
    /// Kills within the first 60 ms after a start.
    pub(crate) killed_young: u64,
    pub(crate) paused: u64,
    pub(crate) terminated: u64,
    pub(crate) terminated_early: u64,
    pub(crate) killed_broker: u64,
    pub(crate) paused_broker: u64,
    pub(crate) cut_connections: u64,
    pub(crate) alarms: u64,
    pub(crate) killed_database: u64,
    pub(crate) restarted_database: u64,
    pub(crate) paused_database: u64,
    pub(crate) cut_sessions: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Blow {
    Kill,
    /// SIGSTOP, then SIGCONT or, in one case of three, SIGKILL.
    Pause,
    Terminate,
}

/// What one cycle does.
#[derive(Clone, Debug)]
struct Cycle {
    victims: Vec<&'static str>,
    blow: Blow,
    /// From the last (re)start to the blow.
    delay_ms: u64,
    /// Wait first until the server serves, so that there is something to lose.
    is_calm: bool,
}

/// Runs every cycle; at the end the processes of the last segment run.
pub(crate) fn run(
    world: &mut World,
    random: &mut SplitMix64,
    tally: &mut Tally,
) -> Result<(), String> {
    let (mode, load) = (world.options.mode, world.options.load);
    let has_messages = load == Load::Messages;
    let segment_cycles = if has_messages { SEGMENT_CYCLES } else { TASK_SEGMENT_CYCLES };
    let mut segment = Segment::new(0, mode, load);
    let mut earlier: Option<Cycle> = None;
    let mut spared = None;
    for number in 0..world.options.cycles {
        if number % segment_cycles == 0 {
            if number > 0 {
                stop_all(world, random, tally)?;
                if has_messages {
                    finish::check_files(world, true)?;
                }
            }
            segment = Segment::new(number / segment_cycles, mode, load);
            earlier = None;
            begin(world, random, segment, number == 0)?;
        }
        if number % SPARING_CYCLES == 0 {
            spared = if has_messages { None } else { spare(random, &segment) };
        }
        let cycle = match load {
            Load::Messages => draw(random, mode, segment.is_up, earlier.take()),
            Load::Tasks => draw_for_tasks(random, &segment, spared, BUSY_MS),
            Load::Ships => draw_for_tasks(random, &segment, spared, BUSY_WITH_SHIPS_MS),
        };
        strike(world, random, tally)?;
        hit(world, random, &cycle, tally).map_err(|what| format!("cycle {number}: {what}"))?;
        restore(world)?;
        earlier = Some(cycle);
    }
    Ok(())
}

/// Starts the processes of a segment.
fn begin(
    world: &mut World,
    random: &mut SplitMix64,
    segment: Segment,
    is_first: bool,
) -> Result<(), String> {
    world.start(segment)?;
    // In the other segments the first blow may fall before anything is set up.
    if is_first || random.chance(50) {
        world.wait_until_healthy()?;
    }
    match &world.broker {
        Some(broker) if is_first => broker.settle(),
        _ => Ok(()),
    }
}

fn strike(world: &mut World, random: &mut SplitMix64, tally: &mut Tally) -> Result<(), String> {
    if let Some(broker) = &mut world.broker {
        broker.strike(random, tally)?;
    }
    match &mut world.database {
        Some(database) => database.strike(random, tally),
        None => Ok(()),
    }
}

fn restore(world: &mut World) -> Result<(), String> {
    if let Some(broker) = &mut world.broker {
        broker.restore()?;
    }
    world.database.as_mut().map_or(Ok(()), Database::restore)
}

/// Who is left in peace for some cycles, if anybody is.
fn spare(random: &mut SplitMix64, segment: &Segment) -> Option<&'static str> {
    let names = segment.names();
    let number = usize::try_from(random.below(names.len() as u64 + 1)).ok()?;
    // Who is alone is hit.
    names.get(number).copied().filter(|_| names.len() > 1)
}

fn draw_for_tasks(
    random: &mut SplitMix64,
    segment: &Segment,
    spared: Option<&'static str>,
    busy_ms: u64,
) -> Cycle {
    let mut victims: Vec<_> =
        segment.names().iter().copied().filter(|name| Some(*name) != spared).collect();
    // One of them, or all at once.
    if random.chance(75) {
        let number = usize::try_from(random.below(victims.len() as u64)).unwrap_or(0);
        victims = victims.get(number..=number).unwrap_or_default().to_vec();
    }
    let blow = match random.below(100) {
        0..=6 => Blow::Pause,
        7..=16 => Blow::Terminate,
        _ => Blow::Kill,
    };
    let most = if random.chance(40) { YOUNG_MS } else { busy_ms };
    let delay_ms = random.below(most);
    Cycle { victims, blow, delay_ms, is_calm: blow == Blow::Terminate }
}

fn draw(random: &mut SplitMix64, mode: Mode, is_up: bool, earlier: Option<Cycle>) -> Cycle {
    // Again the same ones, before they can have recovered from the last blow.
    if let Some(earlier) = earlier
        && earlier.blow == Blow::Kill
        && random.chance(30)
    {
        let delay_ms = random.below(YOUNG_MS);
        return Cycle { delay_ms, is_calm: false, ..earlier };
    }
    let victims = match (is_up, mode) {
        (true, _) => vec!["up"],
        (false, Mode::Server) => vec!["server"],
        (false, Mode::Consumer) => vec!["message-consumer"],
        (false, Mode::Both) => vec!["server", "message-consumer"],
        (false, _) => match random.below(5) {
            0 | 1 => vec!["server"],
            2 | 3 => vec!["message-consumer"],
            _ => vec!["message-consumer", "server"],
        },
    };
    let is_recovery = mode == Mode::Recovery;
    let blow = match random.below(100) {
        // The server alone is not paused: it owns nothing that others wait for.
        0..=4 if !is_recovery && victims != ["server"] => Blow::Pause,
        5..=12 if !is_recovery => Blow::Terminate,
        _ => Blow::Kill,
    };
    let is_young = is_recovery || random.chance(60);
    let delay_ms = if is_young { random.below(YOUNG_MS) } else { random.between(YOUNG_MS, OLD_MS) };
    let is_calm = blow == Blow::Terminate || random.chance(if is_recovery { 20 } else { 12 });
    Cycle { victims, blow, delay_ms, is_calm }
}

fn hit(
    world: &mut World,
    random: &mut SplitMix64,
    cycle: &Cycle,
    tally: &mut Tally,
) -> Result<(), String> {
    if cycle.is_calm {
        world.wait_until_healthy()?;
        std::thread::sleep(Duration::from_millis(OLD_MS));
    }
    std::thread::sleep(Duration::from_millis(cycle.delay_ms));
    for (_, process) in world.processes() {
        process.check_alive()?;
    }
    match cycle.blow {
        Blow::Kill => kill(world, random, &cycle.victims, tally)?,
        Blow::Terminate => {
            for &name in &cycle.victims {
                terminate(world, name, tally)?;
            }
        }
        Blow::Pause => {
            let &[name, ..] = cycle.victims.as_slice() else { return Ok(()) };
            tally.paused += 1;
            world.process(name)?.signal("STOP")?;
            let has_messages = world.options.load == Load::Messages;
            let most = if has_messages { 1500 } else { SILENT_MS };
            std::thread::sleep(Duration::from_millis(random.between(100, most)));
            if random.chance(66) {
                // Goes on with what it held; nothing to restart.
                return world.process(name)?.signal("CONT");
            }
            kill(world, random, &[name], tally)?;
            return world.restart(name);
        }
    }
    for &name in &cycle.victims {
        world.restart(name)?;
    }
    Ok(())
}

fn kill(
    world: &mut World,
    random: &mut SplitMix64,
    victims: &[&'static str],
    tally: &mut Tally,
) -> Result<(), String> {
    for &name in victims {
        let process = world.process(name)?;
        if process.age() < Duration::from_millis(YOUNG_MS) {
            tally.killed_young += 1;
        }
        process.kill()?;
        match name {
            "server" => tally.killed_server += 1,
            "up" => tally.killed_up += 1,
            "worker-1" | "worker-2" => tally.killed_worker += 1,
            "scheduler" => tally.killed_scheduler += 1,
            "spaceship" => tally.killed_spaceship += 1,
            _ => tally.killed_consumer += 1,
        }
        // Of two victims the second goes on alone for a moment, or not.
        std::thread::sleep(Duration::from_millis(random.below(2 * victims.len() as u64)));
    }
    Ok(())
}

fn terminate(world: &mut World, name: &str, tally: &mut Tally) -> Result<(), String> {
    match world.process(name)?.terminate(TERMINATE_PATIENCE, UNREADY)? {
        End::Clean => tally.terminated += 1,
        End::Early => tally.terminated_early += 1,
    }
    Ok(())
}

/// Ends every process, half of the time without asking.
fn stop_all(world: &mut World, random: &mut SplitMix64, tally: &mut Tally) -> Result<(), String> {
    let names: Vec<_> = world.processes().map(|(name, _)| name).collect();
    if random.chance(50) {
        kill(world, random, &names, tally)?;
    } else {
        for name in names {
            terminate(world, name, tally)?;
        }
    }
    world.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{BUSY_MS, Blow, OLD_MS, YOUNG_MS, draw, draw_for_tasks, spare};
    use crate::random::SplitMix64;
    use crate::world::{Load, Mode, Segment};

    #[test]
    fn a_seed_draws_the_same_cycles_again() {
        let draw_all = || -> Vec<String> {
            let mut random = SplitMix64::new(5, 0);
            (0..50).map(|_| format!("{:?}", draw(&mut random, Mode::Mixed, false, None))).collect()
        };
        assert_eq!(draw_all(), draw_all());
    }

    #[test]
    fn every_mode_hits_its_own_victims() {
        let mut random = SplitMix64::new(6, 0);
        for _ in 0..500 {
            let cycle = draw(&mut random, Mode::Consumer, false, None);
            assert_eq!(cycle.victims, ["message-consumer"]);
            let cycle = draw(&mut random, Mode::Mixed, true, Some(cycle).filter(|_| false));
            assert_eq!(cycle.victims, ["up"]);
            let cycle = draw(&mut random, Mode::Recovery, false, None);
            assert!(cycle.blow == Blow::Kill && cycle.delay_ms < YOUNG_MS);
        }
    }

    #[test]
    fn mixed_mode_uses_every_blow_and_repeats_kills() {
        let mut random = SplitMix64::new(7, 0);
        let mut earlier = None;
        let mut seen = Vec::new();
        for _ in 0..500 {
            let cycle = draw(&mut random, Mode::Mixed, false, earlier.take());
            assert!(cycle.delay_ms <= OLD_MS);
            seen.push((cycle.blow, cycle.victims.len()));
            earlier = Some(cycle);
        }
        for wanted in [(Blow::Kill, 1), (Blow::Kill, 2), (Blow::Pause, 1), (Blow::Terminate, 1)] {
            assert!(seen.contains(&wanted), "{wanted:?} never came");
        }
    }

    #[test]
    fn with_tasks_and_ships_everybody_is_hit_and_spared() {
        [Load::Tasks, Load::Ships].map(everybody_is_hit_and_spared);
    }

    fn everybody_is_hit_and_spared(load: Load) {
        let mut random = SplitMix64::new(8, 0);
        let segment = Segment::new(0, Mode::Mixed, load);
        let (mut hit, mut left_alone) = (Vec::new(), Vec::new());
        for _ in 0..500 {
            let spared = spare(&mut random, &segment);
            let cycle = draw_for_tasks(&mut random, &segment, spared, BUSY_MS);
            assert!(cycle.victims.iter().all(|name| Some(*name) != spared));
            hit.push((cycle.blow, cycle.victims));
            left_alone.push(spared);
        }
        for &name in segment.names() {
            assert!(hit.contains(&(Blow::Kill, vec![name])) && left_alone.contains(&Some(name)));
            assert!(hit.contains(&(Blow::Pause, vec![name])));
        }
        assert!(
            hit.contains(&(Blow::Kill, segment.names().to_vec())) && left_alone.contains(&None)
        );
    }
}
