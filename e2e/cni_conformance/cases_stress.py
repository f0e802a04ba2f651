"""Many at once, and plugins killed in the middle."""
import concurrent.futures
import random
import statistics
import time

from harness import case, check, fail

PARALLEL = 32
ROUNDS = 24


@case("stress", f"{PARALLEL} ADDs at once have different addresses, {PARALLEL} DELs leave nothing")
def parallel(bench):
    config, warm = bench.config(), bench.pod()
    warm.add(config)
    before = bench.node_state()
    pods = [bench.pod() for _ in range(PARALLEL)]
    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        answers = list(pool.map(lambda pod: pod.call("ADD", config), pods))
    failures = [answer for answer in answers if answer.code != 0]
    if failures:
        failures[0].ok(f"{len(failures)} of {PARALLEL} ADDs")
    ips = [ip["address"] for answer in answers for ip in answer.json["ips"]]
    check(len(ips) == len(set(ips)), "an address was given twice")
    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as pool:
        answers = list(pool.map(lambda pod: pod.call("DEL", config), pods))
    for answer in answers:
        answer.silent("DEL")
    bench.expect_state(before, f"{PARALLEL} ADDs and DELs")


def usual_time(bench, verb, config):
    times = []
    for _ in range(5):
        pod = bench.pod()
        answers = {"ADD": pod.call("ADD", config), "DEL": pod.call("DEL", config)}
        times.append(answers[verb].ok(verb).seconds)
    return statistics.median(times)


def kill_after(process, seconds):
    time.sleep(seconds)
    process.kill()
    process.communicate()


for verb in ["ADD", "DEL"]:
    @case("stress", f"{ROUNDS} {verb}s killed at random moments: DEL succeeds, no address and nothing else is leaked", verb=verb)
    def killed(bench, verb):
        warm, config = bench.pod(), bench.small_network(6)
        usual = usual_time(bench, verb, config)
        warm.add(bench.config())
        before = bench.node_state()
        moments = random.Random(bench.id)
        for _ in range(ROUNDS):
            pod = bench.pod()
            if verb == "DEL":
                pod.add(config)
            else:
                pod.calls.append((config, "eth0"))
            kill_after(bench.start(pod.environment(verb), config), moments.uniform(0, 1.2 * usual))
            pod.delete(config)
            check("eth0" not in pod.links(), "the interface is still in the Pod")
        bench.takes_all(config, 6)
        bench.expect_state(before, f"{ROUNDS} killed {verb}s")


@case("stress", "a killed ADD can be repeated after DEL, with the same container id")
def killed_again(bench):
    config = bench.small_network(1)
    usual = usual_time(bench, "ADD", config)
    for share in (0.2, 0.5, 0.8):
        pod = bench.pod()
        pod.calls.append((config, "eth0"))
        kill_after(bench.start(pod.environment("ADD"), config), share * usual)
        pod.delete(config)
        pod.add(config)
        pod.delete(config)


@case("stress", "a runtime that closes stdout early does no harm")
def closed_stdout(bench):
    config, pod = bench.small_network(1), bench.pod()
    pod.calls.append((config, "eth0"))
    process = bench.start(pod.environment("ADD"), config)
    process.stdout.close()
    try:
        process.wait(timeout=30)
    except Exception:
        process.kill()
        fail("hangs")
    finally:
        process.stderr.close()
        process.wait()
    pod.delete(config)
    bench.takes_all(config, 1)
