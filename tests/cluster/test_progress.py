"""Progress where there is no terminal: lines, not too many."""

from cluster.progress import bar


def test_a_state_is_told_once(capsys):
    with bar("rows", 3) as show:
        for done, words in ((1, ""), (2, ""), (3, "writing"), (3, "writing"), (3, "ended")):
            show(done, words)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == ["3/3", "3/3"]
    assert [line.split()[-1] for line in lines] == ["writing", "ended"]
