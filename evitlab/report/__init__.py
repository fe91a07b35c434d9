"""Records to tables, figures and one self-contained page. No torch, and no file is written here."""
