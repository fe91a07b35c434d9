"""The paper's claims, one by one: evidence, verdict, page."""
