# ruff: noqa
# mypy: ignore-errors
# fmt: off
"""A DAG file with something of everything: it is loaded as Airflow loads one, never imported by name."""
from __future__ import annotations
import abc, dataclasses, enum, functools, sys, threading, decimal, random, typing as t, logging, os, re
from collections import Counter, defaultdict, namedtuple
from dataclasses import dataclass, field
from math import pow
from typing import ClassVar, Generic, NamedTuple, Protocol, TypeVar, TYPE_CHECKING
import contextlib
if TYPE_CHECKING:
    from pandas import DataFrame
try:
    from functools import cache
except ImportError:
    cache = functools.lru_cache(None)
try:
    import a_package_that_nobody_has
    HAVE = True
except ImportError:
    a_package_that_nobody_has = None
    HAVE = False
with open(__file__.replace(".py", ".ran"), "a") as ran: ran.write("x")
sys.set_int_max_str_digits(0)
random.seed(1)
decimal.getcontext().prec = 50
T = TypeVar("T")
primes = {2, 3}; primes.add(5)
grid = [[0] * 2] * 2
table = []
for i in range(3):
    table.append(i * i)
LIMIT = 5
def limited(n=LIMIT): return n
LIMIT = 9
REGISTRY = {}
def register(f):
    REGISTRY[f.__name__] = f
    return f
@register
def one(): return 1
@register
def two(): return 2
counts = Counter("aab")
dd = defaultdict(list); dd["x"].append(1)
Point = namedtuple("Point", "x y")
origin = Point(0, 1)
class Color(enum.Enum):
    RED = 1
    GREEN = 2
favourite = Color.GREEN
@dataclass
class Item:
    kinds: ClassVar[list] = []
    name: str
    tags: list[str] = field(default_factory=list)
    def hi(self) -> "Item | None": return self.name
item = Item("a", ["t"])
class Base(abc.ABC, Generic[T]):
    subs: t.ClassVar[list] = []
    def __init_subclass__(cls): Base.subs.append(cls.__name__)
    @property
    def p(self): return helper(3)
    @abc.abstractmethod
    def go(self): ...
class Child(Base[int]):
    x = pow(2, 3)
    def go(self): return super().p
class NT(NamedTuple):
    a: int
    b: str = "z"
class Meta(type):
    def __new__(m, n, b, ns): ns["made"] = True; return super().__new__(m, n, b, ns)
class WithMeta(metaclass=Meta): pass
def helper(n): return 1 if n <= 0 else other(n - 1) + 1
def other(n): return helper(n)
def timed(f):
    @functools.wraps(f)
    def wrapper(*a, **k): return ("timed", f(*a, **k))
    return wrapper
def plain(f):
    def wrapper(*a): return ("plain", f(*a))
    return wrapper
@timed
@plain
def deco(x: DataFrame) -> int | None: return x + 1
@functools.lru_cache(maxsize=3)
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
sq = lambda x: x * x; cube = lambda x: x ** 3
if sys.version_info >= (3, 9):
    def ver(): return "new"
else:
    def ver(): return "old"
log = logging.getLogger(__name__)
PAT = re.compile("a+")
_MISSING = object()
def missing(x=_MISSING): return x is _MISSING
LOCK = threading.Lock()
FILE = open(__file__)
GEN = (x for x in ())
def use_lock():
    with LOCK: return 1
def use_file(): return FILE.read()
def use_gen(): return list(GEN)
@functools.singledispatch
def disp(x): return "any"
@disp.register(int)
def _(x): return "int"
@contextlib.contextmanager
def cm():
    yield 4
def everything():
    """# not a comment
    @decorator
    """
    text = """
# SELECT
  x"""
    x: Undefined[1] = 3
    grid[0][0] = 7
    with cm() as four: pass
    return dict(primes=sorted(primes), grid=grid, table=table, limited=limited(), LIMIT=LIMIT, reg=sorted(REGISTRY),
        one=REGISTRY["one"](), counts=dict(counts), dd=dict(dd), origin=tuple(origin), fav=favourite.name,
        same=favourite is Color.GREEN, item=item.hi(), fields=[f.name for f in dataclasses.fields(Item)],
        tags=item.tags, subs=Base.subs, child=Child().go(), childx=Child.x, nt=tuple(NT(1)), made=WithMeta.made,
        helper=helper(4), deco=deco(1), fib=fib(30), sq=sq(3), cube=cube(2), ver=ver(), pat=bool(PAT.match("aa")),
        missing=missing(), disp=disp(1) + disp("x"), four=four, have=HAVE, pow=pow(2, 2), prec=decimal.getcontext().prec,
        rnd=random.random(), digits=len(str(10 ** 5000)), text=text, log=log.name)
def factory(k):
    def scale(x): return x * k
    class Node:
        def __init__(self, v): self.v = v
        def double(self): return Node(scale(self.v))
    def even(n): return n == 0 or odd(n - 1)
    def odd(n): return n != 0 and even(n - 1)
    @functools.lru_cache()
    def cached(x): return scale(x)
    def task(x, *, y=k):
        return [scale(x), y, Node(x).double().v, even(4), cached(x)]
    return task
tasks = [factory(k) for k in (1, 2, 3)]
loop = []
for k in (1, 2):
    def in_loop(k=k): return k
    loop.append(in_loop)
part = functools.partial(helper, 3)
class Callable_:
    def __init__(self, n): self.n = n
    def __call__(self, x): return self.n + x
    def method(self, x): return self.n * x
inst = Callable_(4)
async def coro(x): return x + helper(2)
def gen(): yield 1
def counter():
    n = 0
    def inc():
        nonlocal n
        n += 1
        return n
    return inc
inc = counter()
def newer(x):
    match x:
        case 1: return f"a{x}"
