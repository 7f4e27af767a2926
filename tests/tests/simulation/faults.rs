//! What goes wrong in a run.

use std::sync::Arc;
use std::time::Duration;

use crate::machine::{End, Machine, PEOPLE, RELAY, SINK};
use crate::random::Random;
use crate::world::World;

/// How often a supervisor looks whether its process is still there.
const LOOK: Duration = Duration::from_millis(50);

/// Lets `count` faults happen over `span`, then ends all of them.
pub(crate) async fn happen(world: &Arc<World>, random: &mut Random, count: u64, span: Duration) {
    for _ in 0..count {
        tokio::time::sleep(random.millis(0, 2 * span.as_millis() as u64 / count.max(1))).await;
        world.trace.trouble();
        one(world, random).await;
        world.trace.trouble();
    }
    end(world).await;
}

/// One failure at one step of a short run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// The n-th write, sync, growth or change of names on the disk of a machine fails.
    Disk(usize, u64),
    /// A machine loses its power before the n-th of these.
    Power(usize, u64),
    /// The n-th dial between machines fails.
    Dial(u64),
}

impl Step {
    pub(crate) async fn arm(self, world: &World) {
        world.trace.trouble();
        match self {
            Step::Disk(machine, n) => machines(world)[machine].lock().await.disk.fail_nth(n),
            Step::Power(machine, n) => machines(world)[machine].lock().await.disk.power_off_after(n),
            Step::Dial(n) => world.network.fail_dial(n),
        }
    }

    /// Every step from where the machines have made so many operations, and so many dials were made, to where they
    /// have made `after`.
    pub(crate) fn between(before: &[u64], after: &[u64]) -> Vec<Step> {
        let mut steps = Vec::new();
        for machine in 0..before.len() - 1 {
            for n in 0..after[machine] - before[machine] {
                steps.extend([Step::Disk(machine, n), Step::Power(machine, n)]);
            }
        }
        let dials = after[before.len() - 1] - before[before.len() - 1];
        steps.extend((0..dials).map(Step::Dial));
        steps
    }
}

/// Gives every machine a disk whose syncs do nothing.
pub(crate) async fn lie(world: &World) {
    for machine in machines(world) {
        machine.lock().await.disk.lie();
    }
}

/// Operations of each machine's disk so far, and dials.
pub(crate) async fn operations(world: &World) -> Vec<u64> {
    let mut counts = Vec::new();
    for machine in machines(world) {
        counts.push(machine.lock().await.disk.operations());
    }
    counts.push(world.network.dials());
    counts
}

/// Ends all faults.
pub(crate) async fn end(world: &World) {
    world.network.heal();
    world.network.set_delay_max(2_000);
    world.sink.set_moody(false);
    for machine in machines(world) {
        let machine = machine.lock().await;
        machine.disk.mend();
        machine.disk.set_free_bytes(None);
    }
    world.trace.note("all faults are over");
}

fn machines(world: &World) -> Vec<&tokio::sync::Mutex<Machine>> {
    let people = world.people.iter().map(|person| &person.machine);
    std::iter::once(&world.relay).chain(people).collect()
}

/// Starts processes again that ended, for as long as the world lasts.
pub(crate) async fn supervise(world: Arc<World>) {
    loop {
        tokio::time::sleep(LOOK).await;
        for machine in machines(&world) {
            machine.lock().await.revive().await;
        }
    }
}

async fn one(world: &Arc<World>, random: &mut Random) {
    // Half of what happens to a machine happens to the relay.
    let which = random.below(4).saturating_sub(1) as usize;
    let machines = machines(world);
    let machine = machines[which];
    let drawn = random.below(20);
    world.trace.note(format!("fault {drawn} for machine {which}"));
    match drawn {
        0..=4 => {
            let how = [End::Kill, End::PowerCut, End::PowerCut, End::Stop][random.below(4) as usize];
            let mut machine = machine.lock().await;
            machine.end(how).await;
            tokio::time::sleep(random.millis(0, 8_000)).await;
            machine.start();
        }
        5..=8 => {
            let machine = machine.lock().await;
            machine.disk.power_off_after(random.below(60));
        }
        9 | 10 => {
            let machine = machine.lock().await;
            machine.disk.fail_nth(random.below(40));
        }
        11 => {
            machine.lock().await.disk.set_free_bytes(Some(random.below(2_000_000)));
            tokio::time::sleep(random.millis(1_000, 30_000)).await;
            machine.lock().await.disk.set_free_bytes(None);
        }
        12..=14 => world.network.cut_one(false),
        15 => world.network.cut_one(true),
        16 | 17 => {
            let other = [PEOPLE[0], PEOPLE[1], SINK][random.below(3) as usize];
            world.trace.note(format!("the relay and {other:?} are apart"));
            world.network.part(RELAY.into(), other.into());
            tokio::time::sleep(random.millis(1_000, 60_000)).await;
            world.network.heal();
        }
        18 => {
            world.network.set_delay_max(random.between(50_000, 3_000_000));
            tokio::time::sleep(random.millis(1_000, 60_000)).await;
            world.network.set_delay_max(2_000);
        }
        _ => world.network.fail_dial(random.below(4)),
    }
}
