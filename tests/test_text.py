"""The text of the project: words that are not used, old names, citations, and the map.

`python tests/test_text.py [ROOM ...]` prints all findings, each as `file:line: word: advice`, and
their number in each room: a room's package, README and tests; `documents` are the other texts.
"""

import ast
import fnmatch
import io
import re
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import pytest

ROOT: Final = Path(__file__).parent.parent
PACKAGE: Final = ROOT / "trioserf"

# --- the rules ---


class Rule(NamedTuple):
    """A text that is not used.

    Attributes:
        pattern: an expression; a space in it matches any white space.
        advice: what to write instead.
        where: the parts of a file to search: "prose" (Markdown, comments, strings), "names", or
            "opening" (the beginning of a docstring).
        rooms: the rooms in which it is allowed.
    """

    pattern: str
    advice: str
    where: tuple[str, ...] = ("prose", "names")
    rooms: tuple[str, ...] = ()


PROSE: Final = ("prose",)
WORDS: Final = (
    Rule(r"who(?:m|so)?ever", "the sender, a member that …"),
    Rule(r"(?<=[.;:]\x20)Who (?!is\b|are\b|has\b)\w+", "the sender, a member that …", PROSE),
    Rule(r"lest", "so that … not"),
    Rule(r"dear(?:er|est|ly)?", "expensive"),
    Rule(r"heed(?:s|ed|ing)?", "use, obey, respect"),
    Rule(r"spel(?:l|ls|led|ling|t)", "encode, format"),
    Rule(r"shall", "must, may, will"),
    Rule(r"anew", "again"),
    Rule(r"at the most", "at most"),
    Rule(r"of ours", "our own"),
    Rule(r"(?:no|some|any|every)body", "no member, another client, all members"),
    Rule(r"strangers?", "unknown member, unauthenticated client"),
    Rule(r"obituar(?:y|ies)", "Dead message"),
    Rule(r"accus(?:e|es|ed|er|ers|ing|ation|ations)", "suspect"),
    Rule(r"bur(?:y|ies|ied|ying)", "mark dead"),
    Rule(r"rumou?rs?", "message, broadcast"),
    Rule(r"dice", "seed"),
    Rule(r"stor(?:y|ies)", "scenario"),
    Rule(r"the deaf", "unresponsive members"),
    Rule(r"askers?", "requester"),
    Rule(r"answerers?", "responder"),
    Rule(r"laggards?", "missing members"),
    Rule(r"tall(?:y|ies)", "counters"),
    Rule(r"told", "reported, notified, passed"),
    Rule(
        r"tell(?:s|ing)?(?! (?:apart|(?:\w+ ){1,4}from)\b)", "report, notify, distinguish", PROSE
    ),
    Rule(r"say that", "report, log", PROSE),
    Rule(r"(?:take|takes|took|taken|taking) in", "handle, apply, accept", PROSE),
    Rule(r"holds? for", "apply to", PROSE),
    Rule(r"(?<!there\x20)is no (?!longer\b|such\b|\w+er\b)\w+", "is not a valid …", PROSE),
    Rule(
        r"(?:is|are|was|were|be|been|has|have|had|long|member|members|and|or) gone",
        "dead or left, ended, removed",
        PROSE,
    ),
    Rule(
        r"(?<!own\x20)faults?(?!-toleran|handler)",
        "errors (exceptions), drops (packets)",
        ("prose", "names"),
        ("sim",),
    ),
    Rule(r"(?:Tell|Tells|Say|Says|Let|Have|Take in|Heed)", "Return, Report, Make …", ("opening",)),
    Rule(r"Gives?(?! up)", "Return", ("opening",)),
)
"""Words that are not used, with what to write instead."""


def _pairs(table: str) -> dict[str, str]:
    """Read a table of `old:new`."""
    return {old: new for old, _, new in (pair.partition(":") for pair in table.split())}


OLD_NAMES: Final = _pairs("""
    Membership:Memberlist Beliefs:Memberlist Roster:Members Ring:Members
    random_peers:k_random_nodes estimated_nodes:estimated_size swim/Record:NodeRecord
    is_repeated_by:supersedes is_gone:is_dead_or_left UNANNOUNCED:NO_VERSIONS
    _revive:_mark_alive _accuse:_mark_suspect _bury:_mark_dead
    _hear_from_elsewhere:_handle_address_change merge_rows:merge_nodes Notice:MembershipEvent
    Admission:AdmissionPolicy is_doubted:lacks_confirmations
    wanted_confirmations:required_confirmations has_news:has_sent_at_most Tally:Counters
    tally:counters count_named:increment_label

    Detector:FailureDetector ask_others:send_indirect_pings _Relay:_IndirectPing
    relaying:pending_indirect_pings _alarms:_nack_deadlines Outgoing:PacketOutbox
    send_alone:send_unfilled understands_crc:supports_crc Places:PeerCoordinates
    node,swim/places:coordinates

    SerfState:Serf Asking:OutgoingQueries Question:QueryParams
    AskedQuery:RunningQuery conclude_if_settled:finish_if_complete _heard:_responders
    Queries:IncomingQueries is_meant:matches_filters _who_is:_answer_conflict
    _fitting:_encode_truncated Later:DeferredResponse Exchanges:PushPull
    answer_older_life:refute_stale_intent _go_on_after_the_end:_wrap_clock
    _prunes:_prune_deadlines take_buffered:pop_recent_intent Outbox:GossipQueues
    pass_on:rebroadcast has_seen:is_duplicate Direct:DirectMessage GiveUpName:NameConflictLost
    _GOSSIPED_OFTEN:_DEDUPLICATED KeyTally:KeyQueryResult key_question:key_query
    lacking:count_missing Refusal:Rejection Slot:LamportSlot _turn_to:_switch_epoch
    Clocks:LamportTimes Replayed:SnapshotContents _Replay:_SnapshotParser

    Keeper:StateOwner keeper:owner Fact:Item carry_out:run_effects
    Wake:AutoResetEvent Alarm:DeadlineTimer heed_notices:apply_membership_events
    _correct:_resend_refutation on_arrival:handle_packets
    take_user_message:handle_user_message take_streams:pop_stream_messages
    take_spreads:pop_large_broadcasts wants_gossip:has_gossip round_of_gossip:gossip_round
    is_heard:has_listeners _second_chance:_probe_indirectly ping_by_stream:tcp_ping
    Hub:EventHub Answerer:Responder answerer:responder on_deserted:on_no_responder
    is_patient:waits_until_deadline node/PATIENCE:RESPONSE_WAIT _undecided:_awaiting
    _presumed:_assumed_silent_at Joining:Joiner joining:joiner keep_seeds:rejoin_seeds
    Merge:merge_steps reading_state:decode_in_steps Guests:StreamLimiter Guest:OpenStream
    guest:tracked guests:open_streams SILENCE:MIN_IDLE BulkQueue:StreamSendQueue
    _Line:_MemberQueue RESTS:RETRY_DELAYS TROUBLED_AT_ONCE:MAX_RETRYING
    LONGEST_LINE:MAX_PER_MEMBER MOST_BYTES:MAX_BYTES _spell:_encode_cached _spelled:_encode
    _turns:_work_lock _brief:_first_timeout KeyDesk:KeyHandler desk:key_handler
    warn_of_plaintext:warn_if_plaintext
    _warn_of_eavesdroppers:_warn_if_public_plaintext _must_be_alive:_require_alive
    give_back:trim_memory

    needed_for:require_extra open_gate:release spare_details:disable_caller_info
    _Asked:_PendingQuery _silent:_decline_if_last Runner:ScriptRunner hurry:stop_draining
    _lay_over:_merge _says_nothing:_is_go_zero Speaker:MulticastSockets
    _BREATH:_RETRY_DELAY _Guest:_Admitted _shaken:_handshaken _farewell:_drain
    key_fits:key_matches Attempt:capture_error fault_of:to_control_error spelled:encode_seq
    place_of:find_coordinate Missed:Dropped _hand_out:_dispatch Inbox:RecordBuffer
    join_fault:go_join_error base64_fault:go_base64_error
    transparent:unwrap_single_exception

    Misuse:UsageError Failure:CommandError OutputLost:OutputError Out:Output
    failing:reporting_errors Verdict:ReachabilityReport cli/judge:compare_acks
    laggards:missing_members naming_laggards:with_missing_members
    _everywhere:_run_step_on_all _Ending:_Shutdown _arrows:_prefix_lines
    set_keys:apply_settings end_with_the_reader:exit_when_reader_closes
    World:SimCluster,TestServer Judge:InvariantChecker look_at:check_incarnation
    _Truth:_Expected epitaphs:allowed_statuses audience:expected_receivers tame:vacuous
    Sight:Observation TookTooLong:SimulationTimeout Agenda:EventQueue Book:ResultLog
    Stage:NodeUnderTest Twin:FakeScriptRunner cli,interop/OURS:TRIOSERF
""")
"""Names that were replaced, with the new ones; those with `rooms/` in these rooms only."""

OLD_FILES: Final = _pairs("""
    swim/address:address swim/tally:counters serf/coordinate:coordinate
    control/nurseries:exception_groups

    swim/messages:wire/swim_messages serf/messages:wire/serf_messages wire/swim:wire/swim_codec
    wire/serf:wire/serf_codec wire/embedded:wire/serf_payloads
    wire/stream_readers:wire/stream_decoders wire/crypto:wire/encryption

    swim/membership:swim/memberlist swim/beliefs:swim/memberlist swim/roster:swim/members
    swim/ring:swim/members swim/record:swim/node_record swim/notices:swim/events
    swim/queue:swim/broadcast_queue swim/versions:swim/protocol_versions
    swim/timing:swim/config swim/options:swim/config swim/joinaddr:node/join_address
    node/detector:swim/failure_detector node/outgoing:swim/packet_outbox
    node/places:swim/peer_coordinates

    serf/state:serf/serf serf/asking:serf/outgoing_queries serf/collecting:serf/query_collector
    serf/queries:serf/incoming_queries serf/internal:serf/internal_queries
    serf/exchanges:serf/push_pull serf/outbox:serf/gossip_queues serf/clock:serf/lamport
    serf/key_tally:serf/key_queries serf/rotation:serf/key_rotation
    serf/members:serf/member_table serf/conflict:serf/name_conflict serf/options:serf/config

    node/keeper:node/state_owner node/joining:node/join node/merging:node/push_pull_merge
    node/guests:node/stream_limits node/hub:node/event_hub node/bulk:node/stream_queue
    node/opening:node/open_node node/keys:node/key_handler node/faults:node/drop_counts
    node/upkeep:node/maintenance

    agent/structuring:agent/config_converter agent/scripts:agent/script_runner
    agent/extras:agent/optional_dependencies agent/footprint:memory

    control/server/ports:control/server/commands
    control/server/coalescing:control/server/commands
    control/client/inbox:control/client/async_client
    control/client/replies:control/client/records
    control/client/rpc_records:control/client/rpc_session

    cli/asking:cli/commands/query cli/looking:cli/commands/info
    cli/following:cli/commands/monitor cli/cluster:cli/commands/join
    cli/keys:cli/commands/keys cli/rotating:cli/commands/keys_rotate
    cli/serving:cli/commands/agent_process cli/agent:cli/commands/agent
    cli/members:cli/commands/members cli/version:cli/commands/version cli/program:cli/main
    cli/calling:cli/connect cli/argv:cli/go_flags cli/golang:cli/go_format
    cli/columns:cli/go_format cli/usage:cli/app cli/flags:cli/go_flags
    cli/key_steps:cli/key_operations

    sim/world:sim/cluster sim/endpoint:sim/network sim/clock:sim/virtual_time
    sim/schedule:sim/virtual_time sim/patience:sim/time_limit sim/rotating:sim/key_rotation
""")
"""Modules of the package that were renamed, with their new places."""

OLD_TEST_FILES: Final = _pairs("""
    kit:helpers rig:helpers stage:helpers small:helpers world:helpers fake_agent:helpers
    pieces:helpers running:helpers replayed:helpers lines:helpers go_agents:interop/agents
    invented:fake_members test_lessons:test_regressions test_judging:test_invariants
    test_strangers:test_unauthenticated test_last_scripts:test_script_cleanup
""")
"""Modules of the tests that were renamed."""


class Allowed(NamedTuple):
    """A line that may have a text against the rules.

    Attributes:
        path: the file; may have wildcards.
        line: an expression that the line matches.
        reason: why.
    """

    path: str
    line: str
    reason: str


ALLOWED: Final = (
    Allowed("trioserf/README.md", r"▲ tell", "the method `StateOwner.tell`, in a diagram"),
    Allowed(
        "trioserf/README.md", r"faults and invariants|^\| fault \|", "faults of the simulator"
    ),
    Allowed("trioserf/cli/*.py", r"laggards|strangers", "keys of JSON output"),
    Allowed("tests/interop/test_keys.py", r"laggards", "a key of JSON output"),
    Allowed("tests/cli/test_*.py", r"laggards|nobody listens", "a JSON key, an error of syslog"),
    Allowed("CONTRIBUTING.md", r"whose faults show nowhere", "faults of the simulator"),
)
"""Exceptions. Contract texts, which Serf's users see, belong here."""


# --- files and their texts ---


class Finding(NamedTuple):
    """A place that is against a rule."""

    path: str
    line: int
    text: str
    advice: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}: {self.advice}"


class Text(NamedTuple):
    """A part of a file, and the line on which it begins."""

    kind: str
    line: int
    text: str


def _is_python(path: Path) -> bool:
    if path.suffix:
        return path.suffix == ".py"
    with path.open("rb") as file:
        return b"python" in file.readline()


@cache
def files() -> tuple[Path, ...]:
    """Return all files with text: Python and Markdown."""
    found = [*ROOT.glob("*.md")]
    for directory in ("trioserf", "tests", "scripts"):
        found += [
            path
            for path in (ROOT / directory).rglob("*")
            if path.is_file()
            and not {"__pycache__", "vectors", "corpus"} & set(path.parts)
            and path != Path(__file__)
            and (path.suffix == ".md" or _is_python(path))
        ]
    return tuple(sorted(found))


def room_of(path: Path) -> str:
    """Return the room to which a file belongs."""
    place = path.relative_to(ROOT).parts
    if path.suffix == ".md" and len(place) <= 2:
        return "documents"
    if place[0] == "scripts":
        return "scripts"
    if len(place) > 2:
        return place[1]
    return "ground" if place[0] == "trioserf" else "tests"


def _split_name(name: str) -> str:
    """Split an identifier into words."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_+", " ", name)
    return words.strip()


def _without_code(text: str) -> str:
    """Blank what stands in backticks; lengths and lines stay."""
    return re.sub(r"`[^`]*`", lambda match: re.sub(r"[^\n]", "~", match[0]), text)


def _docstrings(source: str) -> Iterator[Text]:
    pending: list[ast.AST] = [ast.parse(source)]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                yield Text("opening", node.body[0].lineno, text)
        # Expressions are most of the nodes, and define nothing.
        pending += [one for one in ast.iter_child_nodes(node) if not isinstance(one, ast.expr)]


@cache
def texts(path: Path) -> tuple[Text, ...]:
    """Return the parts of a file that the rules are about."""
    source = path.read_text("utf-8")
    if path.suffix == ".md":
        return (Text("prose", 1, source),)
    prose = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)}
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in prose:
            found.append(Text("prose", token.start[0], token.string))
        elif token.type == tokenize.NAME:
            found.append(Text("name", token.start[0], token.string))
    return (*found, *_docstrings(source))


def _is_allowed(path: str, line: str) -> bool:
    return any(
        fnmatch.fnmatch(path, one.path) and re.search(one.line, line) is not None
        for one in ALLOWED
    )


# --- words ---


def _compile(rules: list[Rule], flags: int) -> re.Pattern[str] | None:
    if not rules:
        return None
    parts = (f"(?:{rule.pattern.replace(' ', chr(92) + 's+')})" for rule in rules)
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)", flags)


@cache
def _pattern(where: str, room: str) -> re.Pattern[str] | None:
    rules = [rule for rule in WORDS if where in rule.where and room not in rule.rooms]
    return _compile(rules, 0 if where == "opening" else re.IGNORECASE | re.MULTILINE)


def _advice(where: str, text: str) -> str:
    for rule in WORDS:
        if where in rule.where:
            one = _compile([rule], re.IGNORECASE | re.MULTILINE)
            if one is not None and one.search(text):
                return rule.advice
    return "see WORDS"


@cache
def _name_has(pattern: re.Pattern[str], name: str) -> bool:
    return pattern.search(_split_name(name)) is not None


def _find(pattern: re.Pattern[str], part: Text, where: str) -> Iterator[tuple[int, str]]:
    if where == "names":
        if _name_has(pattern, part.text):
            yield part.line, part.text
    elif where == "opening":
        match = pattern.match(part.text)
        if match is not None:
            yield part.line, match[0]
    else:
        text = _without_code(part.text)
        for match in pattern.finditer(text):
            yield part.line + text.count("\n", 0, match.start()), " ".join(match[0].split())


def words_in(path: Path) -> Iterator[Finding]:
    """Find words that are not used."""
    room, name = room_of(path), str(path.relative_to(ROOT))
    lines = path.read_text("utf-8").splitlines()
    for part in texts(path):
        where = "names" if part.kind == "name" else part.kind
        pattern = _pattern(where, room)
        if pattern is None:
            continue
        for line, text in _find(pattern, part, where):
            if not _is_allowed(name, lines[line - 1]):
                yield Finding(name, line, text, _advice(where, _split_name(text)))


# --- old names ---


@cache
def _old_names(room: str) -> dict[str, str]:
    """Return the old names that a room must not have."""
    found = {}
    for old, new in OLD_NAMES.items():
        rooms, _, name = old.rpartition("/")
        if not rooms or room in rooms.split(","):
            found[name] = new
    return found


def old_names_in(path: Path) -> Iterator[Finding]:
    """Find old names of classes, functions, attributes and files."""
    name = str(path.relative_to(ROOT))
    old_names = _old_names(room_of(path))
    inside = path.relative_to(ROOT).with_suffix("").as_posix()
    new = OLD_FILES.get(inside.removeprefix("trioserf/"))
    if inside.startswith("tests/"):
        new = OLD_TEST_FILES.get(path.stem)
    if new is not None:
        yield Finding(name, 1, path.name, f"the file is now {new}")
    for part in texts(path):
        if part.kind == "name":
            if part.text in old_names and not _is_allowed(name, part.text):
                yield Finding(name, part.line, part.text, f"now {old_names[part.text]}")
        elif part.kind == "prose":
            for match in re.finditer(r"`(?:\w+\.)*(\w+)(?:\(\))?`", part.text):
                if match[1] in old_names and not _is_allowed(name, match[0]):
                    line = part.line + part.text.count("\n", 0, match.start())
                    yield Finding(name, line, match[0], f"now {old_names[match[1]]}")


# --- citations ---

_CITATION: Final = re.compile(r"([\w./-]*README\.md)(?:\)|`)?,?\s+§\s+")


@cache
def headings(path: Path) -> frozenset[str]:
    """Return the headings of a Markdown file."""
    return frozenset(re.findall(r"^#+ (.+?)\s*$", path.read_text("utf-8"), re.MULTILINE))


def _cited_files(path: Path, cited: str) -> list[Path]:
    """Return the files that a citation may mean: below ROOT, the package, or the citing file."""
    places = (ROOT, PACKAGE, path.parent, path.parent.parent)
    return [place / cited for place in places if (place / cited).is_file()]


def citations_in(path: Path) -> Iterator[Finding]:
    """Find citations of files or headings that do not exist, and citations of old documents."""
    name = str(path.relative_to(ROOT))
    for part in texts(path):
        if part.kind != "prose":
            continue
        for match in re.finditer(r"\(spec\b|\bspec:", part.text):
            line = part.line + part.text.count("\n", 0, match.start())
            yield Finding(name, line, match[0], "cite a README with a heading")
        for match in _CITATION.finditer(part.text):
            line = part.line + part.text.count("\n", 0, match.start())
            after = " ".join(re.sub(r"\n\s*#?", " ", part.text[match.end() :]).split())
            found = _cited_files(path, match[1])
            if not found:
                yield Finding(name, line, match[1], "does not exist")
            elif not any(
                after.startswith(one) and not after[len(one) :][:1].isalnum()
                for file in found
                for one in headings(file)
            ):
                cited = f"{match[1]}, § {after[:30]}"
                yield Finding(name, line, cited, "the heading does not exist")


# --- the map ---

MAP: Final = PACKAGE / "README.md"
_CODE: Final = re.compile(r"`([^`\n]+)`")
_NAME_IN_FILE: Final = re.compile(r"`([\w.]+)`\s+\(`([\w/]+\.py)`\)")
_PATH: Final = re.compile(r"[\w/-]+\.(?:py|md)")


@cache
def definitions(path: Path) -> frozenset[str]:
    """Return the names that a file defines: `function`, `Class`, `Class.method`, `CONSTANT`."""
    found = set()

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign):
                found.update(prefix + one.id for one in node.targets if isinstance(one, ast.Name))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(prefix + node.target.id)

    visit(ast.parse(path.read_text("utf-8")).body, "")
    return frozenset(found)


def _place(text: str) -> Path:
    """Return the file of a path in the map: below the package, or below the project."""
    inside = PACKAGE / text
    return inside if inside.exists() or not text.startswith("tests/") else ROOT / text


def map_places() -> Iterator[tuple[int, str, str]]:
    """Return the paths of the map with the names behind them: line, path, name or ""."""
    text = MAP.read_text("utf-8")
    for match in _NAME_IN_FILE.finditer(text):
        yield text.count("\n", 0, match.start()) + 1, match[2], match[1]
    for number, line in enumerate(text.splitlines(), 1):
        is_row = line.startswith("| ")
        for part in re.split(r"[;|]", line) if is_row else [line]:
            path = ""
            for code in _CODE.findall(part):
                if _PATH.fullmatch(code):
                    path = code
                    yield number, path, ""
                elif path and is_row and re.fullmatch(r"[\w.]+", code):
                    yield number, path, code


def map_findings() -> Iterator[Finding]:
    """Find places of the map that do not exist."""
    for line, path, name in map_places():
        file = _place(path)
        if not file.is_file():
            yield Finding("trioserf/README.md", line, path, "does not exist")
        elif name and name not in definitions(file):
            yield Finding("trioserf/README.md", line, f"{path} {name}", "is not defined there")


# --- tests ---

ROOMS: Final = tuple(sorted({room_of(path) for path in files()}))


def findings_of(room: str) -> list[Finding]:
    """Return all findings in the files of a room."""
    return [
        finding
        for path in files()
        if room_of(path) == room
        for check in (words_in, old_names_in, citations_in)
        for finding in check(path)
    ]


def _show(findings: list[Finding]) -> str:
    return "\n".join(map(str, findings))


def _check(room: str, find: str) -> None:
    check = {"words": words_in, "names": old_names_in, "citations": citations_in}[find]
    findings = [one for path in files() if room_of(path) == room for one in check(path)]
    if findings:
        pytest.fail(f"{len(findings)} findings\n{_show(findings)}", pytrace=False)


@pytest.mark.parametrize("room", ROOMS)
def test_room_has_no_word_that_is_not_used(room: str) -> None:
    _check(room, "words")


@pytest.mark.parametrize("room", ROOMS)
def test_room_has_no_old_name(room: str) -> None:
    _check(room, "names")


@pytest.mark.parametrize("room", ROOMS)
def test_citations_name_existing_headings(room: str) -> None:
    _check(room, "citations")


def test_places_of_map_exist() -> None:
    findings = list(map_findings())
    if findings:
        pytest.fail(_show(findings), pytrace=False)


def test_map_names_every_command() -> None:
    text = MAP.read_text("utf-8")
    commands = {
        path.stem.replace("_", "-") for path in (PACKAGE / "cli" / "commands").glob("[a-z]*.py")
    } - {"agent-process", "keys-rotate"}
    assert commands
    assert {one for one in commands if f"\n| {one} |" not in text} == set()


def test_links_of_documents_exist() -> None:
    missing = [
        f"{path.relative_to(ROOT)}: {link}"
        for path in files()
        if path.suffix == ".md"
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", path.read_text("utf-8"))
        if not (path.parent / link).exists()
    ]
    assert missing == []


def test_every_exception_is_needed() -> None:
    used = [
        one
        for one in ALLOWED
        for path in files()
        if fnmatch.fnmatch(str(path.relative_to(ROOT)), one.path)
        and re.search(one.line, path.read_text("utf-8"), re.MULTILINE)
    ]
    assert [one for one in ALLOWED if one not in used] == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test_whoever_speaks", "test whoever speaks"),
        ("MAX_STRANGERS", "MAX STRANGERS"),
        ("NobodyHeard", "Nobody Heard"),
        ("plain", "plain"),
    ],
)
def test_identifier_is_split_into_words(name: str, words: str) -> None:
    assert _split_name(name) == words


@pytest.mark.parametrize(
    ("where", "text", "is_found"),
    [
        ("prose", "as often as shall be", True),
        ("prose", "at\n    the most ten", True),
        ("prose", "it is no port", True),
        ("prose", "there is no port, it is no longer open", False),
        ("prose", "a fault-tolerant cluster", False),
        ("prose", "it tells the owner", True),
        ("prose", "intents tell a leave from a failure", False),
        ("prose", "Whoever sends it", True),
        ("prose", "see `whoever`", False),
        ("names", "on_stranger", True),
        ("names", "stranger_things_marshalled", True),
        ("names", "marshall", False),
        ("opening", "Give the address.", True),
        ("opening", "Give up after three attempts.", False),
    ],
)
def test_words_are_found(where: str, text: str, is_found: bool) -> None:
    pattern = _pattern(where, "node")
    assert pattern is not None
    kind = "name" if where == "names" else where
    assert bool(list(_find(pattern, Text(kind, 1, text), where))) is is_found


def main(rooms: list[str]) -> int:
    """Print all findings of rooms (all rooms if none is given); return the exit code."""
    per_room: Counter[str] = Counter()
    for room in rooms or ROOMS:
        findings = findings_of(room)
        per_room[room] = len(findings)
        if findings:
            sys.stdout.write(_show(findings) + "\n")
    in_map = list(map_findings())
    sys.stdout.write(_show(in_map) + "\n\n" if in_map else "\n")
    for room, number in sorted(per_room.items()):
        sys.stdout.write(f"{number:6} {room}\n")
    sys.stdout.write(f"{len(in_map):6} places of the map\n")
    return 1 if in_map or any(per_room.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
