"""The rules of the Trace Event Format that Perfetto and chrome://tracing hold a file to, for complete ("X") events."""


def check(trace):
    """Asserts them; returns {(process, thread): complete events by time}."""
    assert isinstance(trace, dict) and isinstance(trace["traceEvents"], list), "not in the object form"
    assert trace.get("displayTimeUnit", "ms") in ("ms", "ns"), trace["displayTimeUnit"]
    names, tracks = {}, {}
    for event in trace["traceEvents"]:
        assert isinstance(event["name"], str) and event["name"], event
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int), event
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name") and isinstance(event["args"]["name"], str), event
            key = (event["name"], event["pid"]) if event["name"] == "process_name" else ("thread_name", event["pid"], event["tid"])
            assert key not in names, ("named twice", event)
            names[key] = event["args"]["name"]
            continue
        assert event["ph"] == "X", ("neither metadata nor complete, so it would need a partner", event)
        assert all(isinstance(event[key], (int, float)) for key in ("ts", "dur")) and event["dur"] >= 0, event
        tracks.setdefault((event["pid"], event["tid"]), []).append(event)
    for (process, thread), events in tracks.items():
        assert ("process_name", process) in names and ("thread_name", process, thread) in names, ("without a name", process, thread)
        events.sort(key=lambda e: (e["ts"], -e["dur"]))
        check_nesting(events)
    return tracks


def check_nesting(events, slack=0.002):
    """On one track an event lies wholly inside another or wholly outside; times have three digits after the point."""
    stack = []
    for event in events:
        while stack and event["ts"] >= stack[-1]["ts"] + stack[-1]["dur"] - slack:
            stack.pop()
        assert not stack or event["ts"] + event["dur"] <= stack[-1]["ts"] + stack[-1]["dur"] + slack, (event, stack[-1])
        stack.append(event)
