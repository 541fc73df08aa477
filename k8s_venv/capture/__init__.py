"""Capture: the project's code that a function needs, read as text and syntax tree, sent as slices and values.

The rules, for each name that the function uses, directly or through other names:

1. An **import** is repeated, one name at a time.
2. A **function or class** is sent as its source with its decorators, and the names in it are followed in turn. Of
   several definitions of a name the one in force is sent. A class that keeps account of its subclasses brings them
   along, and the changed values of its attributes (registries, counters). A function or class that registered itself
   in a module beside this one comes along if it can travel.
3. A **choice by Python** (``try``/``except ImportError``, ``if sys.version_info …``, a value made from
   ``sys.version_info``) is repeated whole, so that the environment chooses for itself.
4. Everything else is **state**. It is sent as its value at the time of the call, and its statements do not run again.
5. Statements **run again** only for state without a portable value (a logger, an instance of an installed package's
   class), and for state that can change and is needed *while* definitions run (in decorators, defaults, class
   bodies). Then all statements that bind the name or change its value run, in order. A value that was read from
   outside (files, environment variables, clocks, random numbers) is sent as a value even then, also in class
   attributes and defaults.
6. **Settings** run again: statements that configure Python, or what the slice imports of packages and of the project
   (``random.seed(1)``, ``decimal.getcontext().prec = 50``, ``helpers.TABLES.append("x")``). They begin with an
   imported name, and call something named ``set…``, ``seed``, ``use…``, ``enable…``, change a list, set or dictionary,
   or assign to an attribute or an item. ``sys.path`` and the like stay behind, as do all other statements.
7. Objects of this process (open files, locks, sockets, threads, generators) are **refused** by name.

Annotations are not followed, since the runner compiles with the ``annotations`` future (PEP 563), except where making
a class reads them (``ClassVar``, ``InitVar``, pydantic's fields), or other code does (``typing.get_type_hints``,
dacite). Functions without a name in their module (closures, lambdas, results of a decorator) are sent as their source
with the values of their variables.

An Airflow task is sent as its file was when its operator was made (``module_source.remember``). Elsewhere the file is
read when the call is packed: if the function no longer starts on its line, it is refused. An edit that moves no line
goes unseen, and travels with the values of before: reload an edited module in a notebook.

The modules, from the function down; each knows only those below it:

* ``slicer``: one function -> its slices, its values, the files beside it;
* ``module_slice``: one module -> its statements that run again, and its values, by the rules above;
* ``rerun_rules``: what chooses, reads from outside, changes a name, is a setting, or registers itself (rules 2 to 6);
* ``values``: values, closures and local classes as pickles that any Python reads; objects that never travel (rule 7);
* ``origins``: whether a module is installed, beside the DAG file or sliced; the files beside it, and what is missing;
* ``module_source``: one file as text and syntax tree, and what its text alone says;
* ``functions``, ``imports``, ``names``: callables and definitions, imports, lookups and bindings in a piece of source.
"""
