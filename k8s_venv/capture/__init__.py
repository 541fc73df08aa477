"""What of the project's own source a function needs: read as text and syntax tree, sent as slices and values.

The rules, for each name that the function uses, directly or through what it uses:

1. An **import** is repeated, one name at a time.
2. A **function or class** is sent as its source, decorators included, and what it uses is followed in turn. Of
   several definitions of one name the one that is in force is sent. A class that keeps account of its subclasses
   brings them along, and what was left in its attributes since it was made (registries, counters).
   What registered itself in a module beside this one, which then holds it, comes along if it can.
3. A **choice by Python** (``try``/``except ImportError`` and the like, ``if sys.version_info …``, a value made from
   ``sys.version_info``) is repeated whole, so that the environment chooses for itself.
4. Everything else is **state**. It is sent as its value at the time of the call: so what several statements built
   arrives as it is, and no statement of the module runs again without need.
5. Statements **run again** only for state without a portable value (a compiled model, a logger, an instance of an
   installed package's class), and for what is needed *while* definitions run (decorators, defaults, class bodies)
   and can change. Then all statements run, in order, that bind the name or change what it holds. What is needed
   then but was read from outside (files, variables, clocks, chance) is sent as its value all the same, in class
   attributes and defaults as well.
6. **Settings**: a statement of the module that configures Python, or what the slice imports of packages and of the
   project (``random.seed(1)``, ``decimal.getcontext().prec = 50``, ``helpers.TABLES.append("x")``) runs again. It is
   one whose root is imported and which calls something named ``set…``, ``seed``, ``use…``, ``enable…`` (see
   ``settings``), changes a list, set or dictionary there, or assigns to an attribute or an item; ``sys.path`` and the
   like stay behind. Other statements never run again.
7. What belongs to this process (open files, locks, sockets, threads, generators) is **refused**, with its name.

Annotations are not followed: the runner compiles with the ``annotations`` future (PEP 563). Only what making a class
looks at counts (``ClassVar``, ``InitVar``, pydantic's fields), and where something in the slices or beside them reads
annotations (``typing.get_type_hints``, dacite, …), what they name of Python's own, the project's and those packages
that the slices import anyway. Functions without a name in their module
(closures, lambdas, what a decorator made) are sent as their source with the values of their variables; what an
installed decorator made of a function alone (``contextlib.contextmanager``) is decorated again.

The text of an Airflow task is the file's when its operator was made (``modulefile.remember``): what was loaded runs,
though the file is edited meanwhile. Outside Airflow it is the file's when the call is packed. A file that was edited
after it was loaded is refused where the function no longer starts on its line; an edit that moves nothing goes unseen
and travels with the values of before: in a notebook, reload a module that was edited before its functions are called.

The way through, from the function to what is sent; each module knows only those below it:

* ``slicing``: one function → its slices, its state, the files beside it;
* ``follow``: one module → what each name that is needed needs in turn, by the rules above;
* ``statements``: those of a module that run again. ``repeated_imports``, ``outside`` (what definitions read from
  outside), ``settings`` (rule 6) and ``registered`` (rule 2) find what belongs to them, ``repeating`` what changes,
  chooses and reads, ``in_force`` and ``class_state`` what became of a definition;
* ``state``: values in a form that any Python builds again, with ``unnamed`` for functions and classes without a name
  and ``parts`` for what a value needs besides; ``sender_only``: what travels in no way;
* ``origins`` and ``beside``: where a module comes from, and the project's files that are imported;
* ``modulefile``: one file as text and tree, with what is known from it alone: ``definitions``, ``bindings``,
  ``facts``, ``imports``, ``names``, ``annotations``;
* ``functions`` and ``decorators``: what a callable is and how it is decorated.
"""
