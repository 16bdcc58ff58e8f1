"""The command line. Exit codes: 0 all is well, 1 a failure or refusal, 2 wrong usage, 4 something skipped for lack of openssl."""
import argparse
import base64
import binascii
import json
import sys
from pathlib import Path
from typing import Callable, Dict, List, Tuple

from . import grammar, keys, payload as strict, sealing, vectors
from .encoding import hex_key
from .receiving import ACCEPTED, DEFAULT_SKEW, Delivery, Opened, Receiver
from .signing import OpensslMissing

OK, FAILED, USAGE, SKIPPED = 0, 1, 2, 4
MAX_INPUT = 1024 * 1024


def main(arguments: List[str]) -> int:
    """Runs one command."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except OpensslMissing as err:
        print("SKIPPED: %s" % err, file=sys.stderr)
        return SKIPPED
    except BrokenPipeError:
        return FAILED
    except (ValueError, OSError) as err:
        print("error: %s" % err, file=sys.stderr)
        return USAGE


def run_vectors(options: argparse.Namespace) -> int:
    """All cases of a directory."""
    if not options.directory.is_dir():
        raise ValueError("no such directory: %s" % options.directory)
    tally = vectors.run(options.directory)
    if not tally.cases:
        raise ValueError("no cases in %s" % options.directory)
    for line in tally.failures:
        print("FAIL " + line)
    print("%d cases, %d messages, %d skipped" % (tally.cases, tally.messages, len(tally.skipped)))
    return FAILED if tally.failures else SKIPPED if tally.skipped else OK


def run_open(options: argparse.Namespace) -> int:
    """One message from standard input."""
    receiver = Receiver(
        site=options.site or options.topic.split("/")[0],
        keys={role: hex_key(key) for role, key in options.keys},
        root=options.root.read_bytes() if options.root else None,
        pins=dict(options.pin),
        minimum={sender: int(number) for sender, number in options.minimum},
        skew=options.skew,
        trust_domain=options.trust_domain,
    )
    delivery = Delivery(_input(), options.topic, options.now, options.publisher, options.max_bytes, options.signed,
                        options.statement)
    opened = receiver.open(delivery)
    print(json.dumps(_report(opened, options)))
    return OK if opened.result == ACCEPTED else FAILED


def run_seal(options: argparse.Namespace) -> int:
    """A message to standard output, from the payload on standard input."""
    header = sealing.head(options.kid, options.ts, options.nonce, options.topic)
    kid = grammar.read_kid(header)[0]
    signer = None
    if options.sign_key or options.chain:
        if not (options.sign_key and options.chain):
            raise ValueError("--sign-key and --chain come only together")
        signer = sealing.Signer(options.sign_key.read_bytes(), options.chain.read_bytes())
    message = sealing.seal(header, _input(), keys.key_for(hex_key(options.site_key), kid), signer, options.max_bytes)
    sys.stdout.buffer.write(message)
    return OK


def run_payload(options: argparse.Namespace) -> int:
    """Whether standard input is a strict payload, or why not."""
    try:
        strict.parse(_input())
    except strict.PayloadError as err:
        print("no: %s" % err)
        return FAILED
    print("ok")
    return OK


def run_payload_lines(options: argparse.Namespace) -> int:
    """`ok` or `no` for each line of base64."""
    return _lines(_payload_line)


def run_open_lines(options: argparse.Namespace) -> int:
    """One reason for each line of JSON."""
    return _lines(vectors.decode_line)


def run_selftest(options: argparse.Namespace) -> int:
    """The worked examples of section 11, and every rule by itself."""
    from . import selftest    # nothing else needs it
    return selftest.run()


def _lines(answer: Callable[[str], str]) -> int:
    """Answers every line at once, so that a fuzzer can keep one process. A line that is no question is answered `bad`."""
    code = OK
    while True:
        line = sys.stdin.buffer.readline(MAX_INPUT + 1)
        if not line:
            return code
        if len(line) > MAX_INPUT:
            raise ValueError("the line is too long")
        try:
            print(answer(line.decode("utf-8").rstrip("\r\n")), flush=True)
        except OpensslMissing as err:
            print("SKIPPED: %s" % err, file=sys.stderr)
            print("skipped", flush=True)
            code = SKIPPED
        except ValueError as err:
            print("bad line: %s" % err, file=sys.stderr)
            print("bad", flush=True)


def _payload_line(line: str) -> str:
    """The answer to one line of payload-lines."""
    try:
        data = base64.b64decode(line, validate=True)
    except binascii.Error as err:
        raise ValueError("no base64") from err
    try:
        strict.parse(data)
    except strict.PayloadError:
        return "no"
    return "ok"


def _input() -> bytes:
    """Standard input, bounded."""
    data = sys.stdin.buffer.read(MAX_INPUT + 1)
    if len(data) > MAX_INPUT:
        raise ValueError("the input is too long")
    return data


def _report(opened: Opened, options: argparse.Namespace) -> Dict[str, object]:
    """What `open` prints, with the checks that were left out: nobody shall take accepted for more than it is."""
    report: Dict[str, object] = {"result": opened.result}
    if opened.envelope is not None:
        e = opened.envelope
        report.update(kid="%s/%d" % (e.kid.sender, e.kid.generation), ts=e.ts, nonce=sealing.nonce(e.boot, e.seq),
                      topic=e.topic, signed=e.sig is not None)
    left_out = ["unknown_key", "mac"] if options.statement or not options.keys else []
    left_out += [] if options.publisher else ["sender"]
    left_out += ["stale", "future"] if options.statement else []
    report["not_checked"] = left_out + ["redelivered", "content"]
    return report


def _pair(text: str) -> Tuple[str, str]:
    """NAME=VALUE."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError("not NAME=VALUE")
    return name, value


def _parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(prog="levee_envelope.py", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, run: Callable[[argparse.Namespace], int]) -> argparse.ArgumentParser:
        """A command whose help is the first line of what it does."""
        sub = commands.add_parser(name, help=(run.__doc__ or "").split("\n")[0], allow_abbrev=False)
        sub.set_defaults(run=run)
        return sub

    command("vectors", run_vectors).add_argument("directory", type=Path)
    _open_options(command("open", run_open))
    _seal_options(command("seal", run_seal))
    command("payload", run_payload)
    command("payload-lines", run_payload_lines)
    command("open-lines", run_open_lines)
    command("selftest", run_selftest)
    return parser


def _open_options(sub: argparse.ArgumentParser) -> None:
    """The options of open."""
    sub.add_argument("--keys", nargs="+", action="extend", type=_pair, default=[], metavar="ROLE=HEX")
    sub.add_argument("--topic", required=True)
    sub.add_argument("--now", required=True, type=int, metavar="MS")
    sub.add_argument("--max-bytes", type=int, default=grammar.MAX_MESSAGE)
    sub.add_argument("--site", help="the receiver's site; if absent, the first level of the topic")
    sub.add_argument("--publisher", metavar="SITE/ROLE/NAME")
    sub.add_argument("--skew", type=int, default=DEFAULT_SKEW, metavar="MS")
    sub.add_argument("--signed", action="store_true", help="the class must be signed")
    sub.add_argument("--statement", action="store_true", help="a statement (section 5), not a message")
    sub.add_argument("--root", type=Path, help="the root certificate, DER")
    sub.add_argument("--trust-domain", help="of the leaf's URI; if absent, any")
    sub.add_argument("--pin", action="append", type=_pair, default=[], metavar="SITE/ROLE/NAME=BASE64URL")
    sub.add_argument("--minimum", action="append", type=_pair, default=[], metavar="SITE/ROLE/NAME=GENERATION")


def _seal_options(sub: argparse.ArgumentParser) -> None:
    """The options of seal."""
    sub.add_argument("--site-key", required=True, metavar="HEX")
    sub.add_argument("--kid", required=True)
    sub.add_argument("--ts", required=True, type=int)
    sub.add_argument("--nonce", required=True)
    sub.add_argument("--topic", required=True)
    sub.add_argument("--max-bytes", type=int, default=grammar.MAX_MESSAGE)
    sub.add_argument("--sign-key", type=Path, help="the private key, PEM")
    sub.add_argument("--chain", type=Path, help="leaf and issuer, DER, one after the other")
