"""Checks that tell a learner what is wrong. Each chapter's checks stand in a module of their own."""
