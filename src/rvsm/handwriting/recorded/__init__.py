"""Tremor recorded from people: read from tablets, kept in a library, written with again."""
