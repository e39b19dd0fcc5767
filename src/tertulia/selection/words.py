"""The sentences of a recommendation, in English and Spanish."""

from __future__ import annotations

from tertulia.errors import InvalidInputError
from tertulia.selection.requirement import Paradigm, UseCase

__all__ = ["LANGUAGES", "Words"]

LANGUAGES = ("en", "es")

_PARADIGMS = {
    "en": {"memory": "shared memory", "messages": "messages", "hybrid": "memory and messages in one commit"},
    "es": {"memory": "memoria compartida", "messages": "mensajes", "hybrid": "memoria y mensajes en un solo commit"},
}

_USE_CASES = {
    "en": {
        "state_sharing": "sharing state",
        "request_response": "request and response",
        "event_streaming": "streams of events",
        "broadcast": "broadcast",
        "caching": "caching",
        "coordination": "coordination",
    },
    "es": {
        "state_sharing": "compartir estado",
        "request_response": "petición y respuesta",
        "event_streaming": "flujos de eventos",
        "broadcast": "difusión",
        "caching": "caché",
        "coordination": "coordinación",
    },
}

_SENTENCES = {
    "en": {
        "figure": "{paradigm}: {latency} a unit at the median, {throughput} units/s, "
        "{bytes_read} read by agents for each",
        "faster": "for {use_case} with {agents} agents and {payload}, {best} costs {times} times less than {rival}",
        "even": "for {use_case} with {agents} agents and {payload}, {best} and {rival} cost about the same",
        "alone": "for {use_case} only {best} was measured",
        "overruled": "{unsafe} would cost less, but lost or repeated work where that must not happen",
        "unsafe": "no way that was measured is as safe as required; this one did the least harm for its cost",
        "ruled_out": "the {engine} engine is out: {why}",
        "estimated": "estimated between measured points, not measured at this one",
        "beyond": "beyond what was measured, so taken from the outermost point",
        "other_engine": "the {engine} engine was not measured; these are figures of {figures_from}: "
        "run 'tertulia compare --engine {engine}{server}'",
        "own": "measured here on {made_at}",
        "shipped": "the profile that comes with the package, measured on another machine ({machine}) on {made_at}; "
        "'tertulia compare' measures yours",
        "cores": "{cores} cores",
        "load": "load {load}",
        "rule": "The rule of thumb for {use_case} is {paradigm}; the measurement {agrees}.",
        "agrees": "agrees",
        "disagrees": "does not agree",
        "if_engine": "{change}: the {engine} engine",
        "if_paradigm": "{change}: {paradigm}",
        "if_lossy": "if a lost message does no harm: delivery mode at_most_once",
        "agents": "with {value} agents",
        "payload": "with {value} a message or value",
    },
    "es": {
        "figure": "{paradigm}: {latency} por unidad en la mediana, {throughput} unidades/s, "
        "los agentes leen {bytes_read} por cada una",
        "faster": "para {use_case} con {agents} agentes y {payload}, {best} cuesta {times} veces menos que {rival}",
        "even": "para {use_case} con {agents} agentes y {payload}, {best} y {rival} cuestan más o menos lo mismo",
        "alone": "para {use_case} solo se ha medido {best}",
        "overruled": "{unsafe} costaría menos, pero perdió o repitió trabajo donde eso no debe ocurrir",
        "unsafe": "ninguna de las formas medidas es tan segura como se pide; esta causó el menor daño por su coste",
        "ruled_out": "el motor {engine} queda fuera: {why}",
        "estimated": "estimado entre puntos medidos, no medido en este punto",
        "beyond": "más allá de lo medido: se toma el punto extremo",
        "other_engine": "el motor {engine} no se ha medido; las cifras son de {figures_from}: "
        "ejecute 'tertulia compare --engine {engine}{server}'",
        "own": "medido aquí el {made_at}",
        "shipped": "el perfil que viene con el paquete, medido en otra máquina ({machine}) el {made_at}; "
        "'tertulia compare' mide la suya",
        "cores": "{cores} núcleos",
        "load": "carga {load}",
        "rule": "La regla general para {use_case} es {paradigm}; la medición {agrees}.",
        "agrees": "coincide",
        "disagrees": "no coincide",
        "if_engine": "{change}: el motor {engine}",
        "if_paradigm": "{change}: {paradigm}",
        "if_lossy": "si perder un mensaje no hace daño: modo de entrega at_most_once",
        "agents": "con {value} agentes",
        "payload": "con {value} por mensaje o valor",
    },
}

_REASONS = {
    "en": {
        "machines": "the agents are on several machines",
        "processes": "the agents are in several processes",
        "durable": "the state has to outlive the processes",
        "power_safe": "what was acknowledged has to survive a power cut",
        "fault_tolerant": "what was acknowledged has to survive the death of any process",
        "payload": "the values are larger than it takes",
    },
    "es": {
        "machines": "los agentes están en varias máquinas",
        "processes": "los agentes están en varios procesos",
        "durable": "el estado debe sobrevivir a los procesos",
        "power_safe": "lo confirmado debe sobrevivir a un corte de corriente",
        "fault_tolerant": "lo confirmado debe sobrevivir a la muerte de cualquier proceso",
        "payload": "los valores son mayores de lo que admite",
    },
}

_CHANGES = {
    "en": {
        "latency_sensitive": "if the slow ones count",
        "high_throughput": "if throughput counts",
        "strong_consistency": "if no update may be lost",
        "fault_tolerant": "if any process may die",
        "scalable": "if the team grows",
        "processes": "with agents in several processes",
        "machines": "with agents on several machines",
        "durable": "if the state has to last",
        "power_safe": "if a power cut must take nothing",
    },
    "es": {
        "latency_sensitive": "si cuentan las más lentas",
        "high_throughput": "si cuenta el caudal",
        "strong_consistency": "si no se puede perder ninguna actualización",
        "fault_tolerant": "si puede morir cualquier proceso",
        "scalable": "si el equipo crece",
        "processes": "con agentes en varios procesos",
        "machines": "con agentes en varias máquinas",
        "durable": "si el estado debe perdurar",
        "power_safe": "si un corte de corriente no debe llevarse nada",
    },
}


class Words:
    """One language's sentences. Raises InvalidInputError for a language that there is none for."""

    def __init__(self, language: str) -> None:
        if language not in LANGUAGES:
            raise InvalidInputError(f"reasons are in one of {', '.join(LANGUAGES)}, not {language!r}")
        self.language = language
        self._sentences = _SENTENCES[language]

    def say(self, sentence: str, **parts: object) -> str:
        """Return a sentence with its parts filled in."""
        return self._sentences[sentence].format(**parts)

    def paradigm(self, paradigm: Paradigm) -> str:
        """Return what a paradigm is called."""
        return _PARADIGMS[self.language][paradigm.value]

    def use_case(self, use_case: UseCase) -> str:
        """Return what a use case is called."""
        return _USE_CASES[self.language][use_case.value]

    def reason(self, field: str) -> str:
        """Return why a field of the requirement rules an engine out."""
        return _REASONS[self.language][field]

    def change(self, field: str) -> str:
        """Return the condition that a flag of the requirement stands for."""
        return _CHANGES[self.language][field]
