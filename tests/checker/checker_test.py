#!/usr/bin/env python3
"""The independent checker on recorded disputes: does it say what the referee in C says? (README.md)

usage: checker_test.py RECORDER                 runs it and checks what it writes
       checker_test.py RECORDER FIRST LAST      the same of these bases of the tamper kit
       checker_test.py FILE                     a recording that was kept
"""

import collections
import os
import struct
import subprocess
import sys
import time

sys.dont_write_bytecode = True

from binary32 import fma
from game import GOES_ON, Game, REJECTED
from merkle import Reject
from program import Claim, Program

VERDICTS = ('goes on', 'rejected', 'the worker loses', 'the challenger loses')


def items(f):
    while True:
        head = f.read(5)
        if not head:
            return
        n = struct.unpack('<I', head[1:])[0] if len(head) == 5 else 1
        body = f.read(n)
        if len(body) != n:
            raise SystemExit('checker_test: the recording breaks off')
        yield chr(head[0]), body


def op_of(game):
    return game.unit.ops[game.op].kind if game.now == 'tile' else game.now.upper()


class Run:
    def __init__(self):
        self.counts, self.seconds = collections.Counter(), collections.Counter()
        self.wrong = 0

    def differs(self, game, what):
        self.wrong += 1
        if self.wrong > 30:
            return
        where = ''
        if game.now == 'tile':
            where = ' (step %d, unit %d, op %d %s)' % (game.step, game.unit.unit, game.op, op_of(game))
        print('DIFFERS: %s, game %d%s: %s' % (self.name, self.number, where, what))

    def move(self, game, body):
        """A byte: the verdict in C; then the move."""
        start = time.process_time()
        mine = game.move(body[1:])
        what = op_of(game)
        self.seconds[what] += time.process_time() - start
        self.counts[what, mine] += 1
        if mine != body[0]:
            self.differs(game, 'C says that %s, the checker that %s (%s)' % (VERDICTS[body[0]], VERDICTS[mine], getattr(game, 'why', '')))
        return mine

    def tile(self, game, true):
        if game.record != true:
            mine = (game.record or b'').hex()
            self.differs(game, 'C computes %s, the checker %s' % (true.hex()[:160], mine[:160]))

    def all(self, f):
        game = claim = mark = None
        self.name, self.number = '?', 0
        for kind, body in items(f):
            if kind == 'N':
                self.name, self.number = body.decode(), 0
            elif kind == 'P':
                program = Program(body)
            elif kind == 'R':
                claim, cache = Claim(program, body), {}
            elif kind == 'G':
                game = Game(claim, cache)
                self.number += 1
            elif kind == 'S':
                mark = dict(game.__dict__)
            elif kind == 'B':
                game.__dict__ = dict(mark)
            elif kind == 'M':
                self.move(game, body)
            elif kind == 'D':
                before = dict(game.__dict__)
                self.move(game, body)
                game.__dict__ = before
            elif kind == 'T':
                self.tile(game, body)


def main():
    if len(sys.argv) not in (2, 4):
        raise SystemExit(__doc__)
    # just below the middle of two binary32, by less than a binary64 can tell
    assert fma(2.0 ** -24 * (1 + 2.0 ** -23), 1 - 2.0 ** -23, 1 + 2.0 ** -23) == 1 + 2.0 ** -23
    run = Run()
    with open(sys.argv[1], 'rb') as f:
        binary = f.read(4) == b'\x7fELF'
    if binary:
        with subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE) as p:
            run.all(p.stdout)
        if p.returncode:
            raise SystemExit('checker_test: the recorder ended with %d' % p.returncode)
    else:
        with open(sys.argv[1], 'rb') as f:
            run.all(f)
    tiles = collections.defaultdict(lambda: [0] * 4)
    for (what, verdict), n in run.counts.items():
        tiles[what][verdict] += n
    if os.environ.get('VD_LONG'):
        for what, n in sorted(tiles.items()):
            print('%-12s %5d %5d %5d %5d  %.2f s' % (what, *n, run.seconds[what]))
    total = [sum(n[v] for n in tiles.values()) for v in range(4)]
    print('checker: %d verdicts against the worker, %d against the challenger, %d moves rejected, %d accepted' %
          (total[2], total[3], total[REJECTED], total[GOES_ON]))
    if run.wrong or not total[2] or not total[3] or not total[REJECTED]:
        raise SystemExit('checker_test: %d differences' % run.wrong)


if __name__ == '__main__':
    main()
