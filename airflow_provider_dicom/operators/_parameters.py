"""
How the parameters of operators and sensors get their values, whatever Airflow fills them with.

Invariants:

- A value that comes from another task is data: it is never rendered as a template. Airflow itself renders the
  values of ``expand_kwargs`` again.
- A parameter that the DAG gives is given, even if its value is None by now. Airflow runs ``__init__`` of a
  mapped task again with the values of its index, where None from another task would look like the default.
- Values are read when they have been rendered, and refused only before something is submitted: templates are
  rendered again on every resume, and a running export must not be lost by what they render to then.
- A template renders to text, or to the object that its only expression stands for. In a DAG with
  ``render_template_as_native_obj=True``, Jinja would turn the text ``1.10`` into the number ``1.1``.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from airflow.providers.common.compat.sdk import BaseOperator, XComArg

from airflow_provider_dicom.compat import OperatorPartial, ResolveMixin
from airflow_provider_dicom.validation import (
    Kind,
    is_nothing,
    is_template,
    raise_if_invalid,
    read_value,
    value_error,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any, Self

    import jinja2
    from airflow.providers.common.compat.sdk import Context


class PrivateValue(ResolveMixin):
    """
    A parameter's value that may name a patient: logs, pages and Airflow's database show its keys at most.

    :param value: the value, with its templates and the outputs of other tasks.
    """

    def __init__(self, value: object) -> None:
        self._value = value

    def __repr__(self) -> str:
        names = ", ".join(map(str, self._value)) if isinstance(self._value, Mapping) else ""
        return f"<{type(self._value).__name__} of private values: {names}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PrivateValue) and self._value == other._value

    def __hash__(self) -> int:
        return hash(PrivateValue)

    def iter_references(self) -> Iterable[tuple[Any, str]]:
        """Yield the tasks whose outputs are in the value, so that Airflow runs them first."""
        yield from XComArg.iter_xcom_references(self._value)

    def resolve(self, *_: object, **__: object) -> PrivateValue:
        """Return the value as it is: only the operator to which it belongs renders it."""
        return self

    def reveal(self) -> object:
        """Return the value."""
        return self._value


def reveal(value: object) -> object:
    """
    Return what a private value holds, and any other value as it is.

    :param value: the value of a parameter.
    """
    return value.reveal() if isinstance(value, PrivateValue) else value


class ParameterOperator(BaseOperator):
    """An operator whose parameters are read and refused by their kinds."""

    #: The kinds of the operator's own parameters.
    PARAMETERS: ClassVar[Mapping[str, Kind]]
    #: The parameters whose values may name a patient.
    PRIVATE: ClassVar[frozenset[str]] = frozenset()

    def __new__(cls, *_: object, **kwargs: object) -> Self:
        """
        Note whether a mapped task is being built, and which arguments it has.

        :param kwargs: the arguments of ``__init__``; none for a copy.
        """
        self = super().__new__(cls)
        is_mapped = bool(kwargs.get("_airflow_from_mapped"))
        # Not by assignment, for which BaseOperator needs the arguments of __init__. Those come first, because
        # a copy in Airflow 2 assigns all attributes in their order.
        vars(self).update(
            _BaseOperator__init_kwargs={},
            is_mapped_index=is_mapped,
            _given=frozenset(kwargs if is_mapped else ()),
            _origins={},
            _templates=frozenset(),
        )
        return self

    #: Whether Airflow built the operator for an index of a mapped task.
    is_mapped_index: bool
    _given: frozenset[str]
    _origins: dict[str, str]
    _templates: frozenset[str]

    def _hook_apply_defaults(self, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # Airflow keeps the arguments of __init__, and OpenLineage may send them.
        return args, self._with_private_values(kwargs)

    @classmethod
    def partial(cls, **kwargs: Any) -> Any:
        """
        Begin a mapped task; the DAG that Airflow stores does not hold private values.

        :param kwargs: the arguments that all indexes have.
        """
        partial = super().partial(**cls._with_private_values(kwargs))
        partial.__class__ = PrivatePartial
        return partial

    @classmethod
    def _with_private_values(cls, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: PrivateValue(value)
            if name in cls.PRIVATE and value is not None and not isinstance(value, PrivateValue)
            else value
            for name, value in kwargs.items()
        }

    def unrendered(self) -> frozenset[str]:
        """Return the names of the parameters that are still templates."""
        return frozenset(
            name for name in self.template_fields if is_template(reveal(getattr(self, name, None)))
        )

    def validate_when_parsed(self) -> None:
        """
        Refuse what is invalid in the DAG's own text; ``__init__`` ends with it.

        :raises DicomExportInvalidRequestError: if a parameter is invalid.
        """
        self._note_given()
        # The values of a mapped task are those of a run: they are refused where those of other tasks are.
        self._read_values(self._given if self.is_mapped_index else frozenset())
        if not self.is_mapped_index:
            raise_if_invalid(self._validation_errors(self.unrendered()))

    def kind_errors(self, unrendered: frozenset[str]) -> tuple[list[str], frozenset[str]]:
        """
        Validate all parameters by their kinds.

        :param unrendered: the names of the parameters that are still templates.
        :return: one sentence for each error, and the names that no other check has to look at.
        """
        sentences, settled = [], set(unrendered)
        for name, kind in self.PARAMETERS.items():
            if name in unrendered:
                continue
            value, origin = reveal(getattr(self, name, None)), self._origins.get(name)
            if origin is None and self.is_mapped_index and name in self._given:
                origin = "the argument of the mapped task"
            if name in self.PRIVATE and isinstance(value, str):
                value = "" if is_nothing(value, is_rendered=True) else "..."
            error = value_error(name, value, kind, is_given=name in self._given, origin=origin)
            if error:
                sentences.append(error)
                # The check of a text says better what is accepted instead.
                if not isinstance(value, str) or kind in (Kind.FLAG, Kind.OPTIONAL_FLAG):
                    settled.add(name)
        return sentences, frozenset(settled)

    def _validation_errors(self, unrendered: frozenset[str]) -> Iterator[str]:
        """Yield the validation errors of all parameters but those that are still templates."""
        raise NotImplementedError

    def render_template(
        self,
        content: Any,
        context: Context,
        jinja_env: jinja2.Environment | None = None,
        seen_oids: set[int] | None = None,
    ) -> Any:
        """
        Render a template to text, or to the object that its only expression stands for.

        :param content: a template, or a collection with templates.
        :param context: the task's context.
        :param jinja_env: Jinja's environment; the DAG's if not given.
        :param seen_oids: the ids of objects that must not be rendered.
        """
        from jinja2.nativetypes import NativeEnvironment

        if isinstance(content, PrivateValue):
            return PrivateValue(self._render_strictly(content.reveal(), context, jinja_env))
        if isinstance(content, str) and id(content) not in (seen_oids or ()):
            jinja_env = jinja_env or self.get_template_env()
            if isinstance(jinja_env, NativeEnvironment) and not content.endswith(tuple(self.template_ext)):
                return native_value(render_parts(jinja_env.from_string(content), context))
        return super().render_template(content, context, jinja_env, seen_oids)

    def _render_strictly(
        self, value: object, context: Context, jinja_env: jinja2.Environment | None
    ) -> object:
        """Render a value; to None if a part of its template is nothing, which would widen what it matches."""
        if isinstance(value, Mapping):
            return {name: self._render_strictly(item, context, jinja_env) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._render_strictly(item, context, jinja_env) for item in value]
        if isinstance(value, str) and is_template(value):
            parts = render_parts((jinja_env or self.get_template_env()).from_string(value), context)
            if not parts or any(is_nothing(part, is_rendered=True) for part in parts if part != " "):
                return None
            return parts[0] if len(parts) == 1 else "".join(map(str, parts))
        return self.render_template(value, context, jinja_env)

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Iterable[str],
        context: Context,
        jinja_env: jinja2.Environment,
        seen_oids: set[int],
        **of_airflow_2: Any,
    ) -> None:
        # Airflow calls this method for ordinary and for mapped tasks, and for objects inside of parameters.
        if parent is not self:
            super()._do_render_template_fields(
                parent, template_fields, context, jinja_env, seen_oids, **of_airflow_2
            )
            return
        self._note_given()
        rendered = self.unrendered()
        self._origins = {name: describe_origin(getattr(self, name)) for name in rendered}
        data = self._data_names(context)
        super()._do_render_template_fields(
            self,
            [name for name in template_fields if name not in data],
            context,
            jinja_env,
            seen_oids,
            **of_airflow_2,
        )
        self._read_values(rendered | data)

    def is_literal(self, name: str) -> bool:
        """
        Tell whether the DAG's author chose a parameter's value, not a template or a value that is mapped.

        :param name: the parameter's name.
        """
        if name in self._templates or not self.is_mapped_index:
            return name not in self._templates
        task = self.dag.task_dict.get(self.task_id)
        return name in getattr(task, "partial_kwargs", ())

    def _note_given(self) -> None:
        self._templates |= self.unrendered()
        self._given |= {name for name in self.PARAMETERS if getattr(self, name, None) is not None}

    def _read_values(self, rendered: frozenset[str]) -> None:
        for name, kind in self.PARAMETERS.items():
            value = getattr(self, name, None)
            if isinstance(value, PrivateValue):
                continue
            read = read_value(value, kind, is_rendered=name in rendered)
            if read is not value:
                setattr(self, name, read)

    def _data_names(self, context: Context) -> frozenset[str]:
        """Return the names of a mapped task's arguments that come from other tasks."""
        task = self.dag.task_dict.get(self.task_id) if self.is_mapped_index else None
        value = getattr(getattr(task, "expand_input", None), "value", None)
        if isinstance(value, Mapping):  # expand()
            return frozenset(name for name, values in value.items() if hasattr(values, "resolve"))
        if value is None:
            return frozenset()
        if isinstance(value, Sequence):  # expand_kwargs([...])
            index = context["ti"].map_index
            if index is not None and isinstance(value[index], Mapping):
                return frozenset()
        return self._given - frozenset(getattr(task, "partial_kwargs", ()))


class PrivatePartial(OperatorPartial):
    """A mapped task that is being written down in a DAG; literal lists of private values stay private."""

    # As many as Airflow's class has, so that an object of it can become one of this class.
    __slots__ = ()

    def expand(self, **mapped_kwargs: Any) -> Any:
        """
        Map over lists of arguments.

        :param mapped_kwargs: a list, or the output of another task, for each name.
        """
        for name, values in mapped_kwargs.items():
            if isinstance(values, list | tuple):
                mapped_kwargs[name] = [self._with_private_values({name: value})[name] for value in values]
        return super().expand(**mapped_kwargs)

    def expand_kwargs(self, kwargs: Any, **options: Any) -> Any:
        """
        Map over a list of all arguments.

        :param kwargs: the list of arguments, or the output of another task.
        :param options: options of Airflow's method.
        """
        if isinstance(kwargs, list | tuple):
            kwargs = [
                self._with_private_values(item) if isinstance(item, Mapping) else item for item in kwargs
            ]
        return super().expand_kwargs(kwargs, **options)

    def _with_private_values(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        operator = self.operator_class
        return (
            operator._with_private_values(kwargs) if issubclass(operator, ParameterOperator) else {**kwargs}
        )


def describe_origin(value: object) -> str:
    """
    Name the template, or the other source, of a parameter's value.

    :param value: the parameter's value before it is rendered.
    """
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, XComArg):
        return f"another task, {value}"
    return f"a {type(value).__name__} in the DAG"


def render_parts(template: jinja2.Template, context: Context) -> list[object]:
    """
    Render a template to its parts: the texts between its expressions, and what the expressions stand for.

    :param template: the template; expressions of a native environment stand for objects, of others for text.
    :param context: the task's context.
    """
    environment = template.environment
    # As Airflow does it: the context's values are looked up only if the template needs them.
    variables: Any = copy.copy(context)
    variables.update((name, value) for name, value in template.globals.items() if name not in variables)
    scope = environment.context_class(environment, variables, template.name or "", template.blocks)
    try:
        return list(template.root_render_func(scope))
    except Exception:
        environment.handle_exception()


def native_value(parts: list[object]) -> object:
    """
    Join the parts of a native template, without turning text into numbers.

    :param parts: the parts.
    """
    if len(parts) == 1 and not isinstance(parts[0], str):
        return parts[0]
    text = "".join(map(str, parts))
    if not text.startswith(("[", "{", "(")):
        return text
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
