# Turn: what is to happen before an endpoint's loop sleeps.
#
# The compiled twin of endpoint/turn_python.py, which says what it is for. Connections that send for
# themselves are flushed here; Python hears of the others, and of those that have something to tell.

cdef class Reactor  # below

cdef Py_ssize_t LINKS_AT_ONCE = _AT_ONCE


@cython.final
cdef class Turn:
    """See `turn_python.Turn`."""

    cdef readonly object loop
    cdef readonly dict dirty
    cdef public bint wanted, held, dead
    cdef public object busy_poll
    cdef object on_flush, on_turn
    cdef list news            # links that Python is to look at, with the next flush
    cdef list woken           # Waiters, by the batch that goes on; None: there is none
    cdef bint looking, scheduled, is_next
    cdef bint at_once         # what is written leaves at once: nothing has in this batch
    cdef object ready         # callbacks that wait for the next turn, where the loop shows them
    cdef unsigned long thread

    def __init__(self, loop, flush):
        self.loop = loop
        self.on_flush = flush
        self.on_turn = self._on_turn
        self.dirty, self.news = {}, []
        self.ready = getattr(loop, "_ready", True)
        self.thread = PyThread_get_thread_ident()

    def check(self):
        """RuntimeError from another thread than the loop's, and in a forked child."""
        turn_check(self)

    def begin(self):
        """A batch begins: whom it wakes runs at its end."""
        turn_begin(self)

    def end(self, bint more_may_come):
        """Run whom the batch woke, then flush; later where `more_may_come` and it woke nobody."""
        turn_end(self, more_may_come)

    def look_for_packets(self):
        """For a task that is about to wait: True when it is to look again.

        With `Config.busy_poll`, because packets came.
        """
        return turn_look_for_packets(self)

    def flush_soon(self, link not None):
        """Ask `link`'s connection for packets once this turn of the loop is over."""
        turn_flush_soon(self, link)

    def flush_complete(self, link not None):
        """As flush_soon, but at once where nothing has left in this batch."""
        turn_flush_complete(self, link)

    def schedule(self):
        """Flush in the next turn, if not before."""
        turn_schedule(self)

    def is_scheduled(self):
        return self.scheduled

    def flush(self):
        """Send now what is queued: at most AT_ONCE links of it, the others in the next turn."""
        return turn_flush(self)

    def _on_turn(self):
        self.scheduled = False
        turn_flush(self)


cdef inline int turn_check(Turn self) except -1:
    if self.dead:
        raise RuntimeError(_FORKED)
    if PyThread_get_thread_ident() != self.thread:
        raise RuntimeError(_OTHER_THREAD)
    return 0


cdef bint turn_look_for_packets(Turn self) except *:
    cdef bint polls = self.busy_poll is not None and self.busy_poll.active
    if self.dirty and (polls or self.at_once):
        # Nothing comes back before what was written has left.
        self.at_once = False
        if turn_flush(self):
            return True  # that may have told of something
    if not polls:
        return False
    self.looking = True
    try:
        return self.busy_poll.look(self.scheduled)
    finally:
        self.looking = False


cdef int turn_flush_complete(Turn self, object link) except -1:
    cdef DataPlane plane
    if not self.at_once or self.held:
        return turn_flush_soon(self, link)
    self.at_once = False
    self.dirty.pop(link, None)
    plane = link.connection.plane
    if plane is not None and plane_sends_itself(plane):
        return turn_flush_plane(self, link, plane)
    self.on_flush([link], [])
    return 0


cdef inline void turn_begin(Turn self):
    if not self.looking:
        self.woken = []


cdef int turn_end(Turn self, bint more_may_come) except -1:
    cdef list woken
    if self.looking:
        turn_schedule(self)
        return 0
    woken, self.woken = self.woken, None
    if woken:
        self.is_next = self.at_once = True
        try:
            turn_run(self, woken)
        except BaseException:
            self.is_next = False
            turn_schedule(self)  # the loop may go on
            raise
        finally:
            self.is_next = self.at_once = False
    elif more_may_come:
        turn_schedule(self)
        return 0
    turn_flush(self)
    if self.ready:
        # Behind the tasks that are to run: what they write leaves in the same turn.
        turn_schedule(self)
    return 0


cdef int turn_run(Turn self, list woken) except -1:
    """Run those tasks. What one raises is its own, but for what ends the loop: that comes out."""
    cdef Py_ssize_t i
    for i in range(len(woken)):
        try:
            waiter_run(<Waiter>woken[i])
            if self.at_once and self.dirty:
                self.at_once = False
                turn_flush(self)
        except BaseException:
            for later in woken[i + 1:]:
                waiter_run_soon(<Waiter>later)
            raise
    return 0


cdef inline int turn_flush_soon(Turn self, object link) except -1:
    self.dirty[link] = None
    if not (self.scheduled or self.is_next):
        turn_schedule(self)
    return 0


cdef int turn_schedule(Turn self) except -1:
    if not (self.scheduled or self.is_next or self.held):
        self.scheduled = True
        self.loop.call_soon(self.on_turn)
    return 0


cdef bint turn_flush(Turn self) except -1:
    """True when Python had a part in it."""
    cdef dict dirty = self.dirty
    cdef list rest = None, news, links
    cdef bint is_python = False
    cdef DataPlane plane
    if self.held:
        return False
    if dirty:
        self.dirty = {}
        if len(dirty) > LINKS_AT_ONCE:
            # In front of those that are not done with this time.
            links = list(dirty)
            self.dirty = dict.fromkeys(links[LINKS_AT_ONCE:])
            dirty = dict.fromkeys(links[:LINKS_AT_ONCE])
        for link in dirty:
            plane = link.connection.plane
            if plane is not None and plane_sends_itself(plane):
                turn_flush_plane(self, link, plane)
            elif rest is None:
                rest = [link]
            else:
                rest.append(link)
    if rest is not None or self.wanted or self.news:
        is_python = True
        news, self.news = self.news, []
        self.wanted = False
        self.on_flush([] if rest is None else rest, news)
    if self.dirty:
        turn_schedule(self)
    return is_python


cdef int turn_flush_plane(Turn self, object link, DataPlane plane) except -1:
    cdef Reactor reactor = <Reactor>plane.reactor
    cdef bint more
    try:
        more = reactor_flush(reactor, plane, monotonic())
    except Exception as error:
        plane_broke(plane, error)
        more = True  # the close
    if more:
        self.dirty[link] = None
    if plane.armed == 0 or plane_has_news(plane):
        self.news.append(link)
    if reactor.socket.too_large.count:
        self.wanted = True  # Python is to know
    return 0


cdef int turn_hand_on(Turn self, list planes) except -1:
    """A batch brought these something that is their sessions' alone: no others, no control plane.

    A peer may wait for what the batch lets tasks send, nobody for the end of what was sent before:
    that comes behind the flush.
    """
    cdef list late = []  # (link, stream ID)
    try:
        turn_tell(self, planes, late)
    except BaseException:
        for link, stream_id in late:  # the loop may go on
            turn_tell_ended(link, stream_id)
        raise
    if late:
        turn_begin(self)
        try:
            for link, stream_id in late:
                turn_tell_ended(link, stream_id)
        finally:
            turn_end(self, False)
    return 0


cdef int turn_tell(Turn self, list planes, list late) except -1:
    cdef DataPlane plane
    turn_begin(self)
    try:
        for item in planes:
            plane = <DataPlane>item
            link = plane.owner
            if link is None:
                continue  # it ended meanwhile
            if plane.events.count:
                turn_tell_link(link, plane, late)
            if plane.dirty or plane.control_dirty:
                turn_flush_soon(self, link)
            elif plane_has_news(plane):
                self.news.append(link)  # an earlier deadline
    finally:
        turn_end(self, False)
    return 0


cdef int turn_tell_link(object link, DataPlane plane, list late) except -1:
    """Wake the tasks that streams are for; Python hears of the rest, of SEND_ENDED `late`."""
    cdef StreamTasks tasks = link.tasks
    cdef list others = []
    cdef EventQueue events = plane.events
    cdef size_t i
    cdef int kind
    cdef uint64_t number
    memset(&plane.events, 0, sizeof(EventQueue))
    try:
        for i in range(events.count):
            number = events.items[i].number
            kind = events.items[i].kind
            if kind == EVENT_SEND_ENDED:
                late.append((link, number))
            elif tasks is None or (kind != EVENT_READABLE and kind != EVENT_STREAM_OPENED):
                others.append((EVENTS[kind], number))
            else:
                if others:  # whom they wake runs before whom this wakes
                    link.on_events(others)
                    others = []
                if kind == EVENT_READABLE:
                    tasks_readable(tasks, number)
                else:
                    tasks_opened(tasks, number)
    finally:
        free(events.items)
    if others:
        link.on_events(others)
    return 0


cdef inline int turn_tell_ended(object link, object stream_id) except -1:
    cdef StreamTasks tasks = link.tasks
    if tasks is None or not tasks_ended(tasks, stream_id):
        link.on_events([(EVENTS[EVENT_SEND_ENDED], stream_id)])
    return 0
