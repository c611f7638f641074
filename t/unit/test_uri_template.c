/* SPDX-License-Identifier: Apache-2.0 */
/* test_uri_template.c: examples of RFC 6570, levels 1 to 3 (1.2, 3.2), errors, percent-encoding. */
#include "core/uri_template.h"

#include <apr_strings.h>

#include "tap.h"

static const struct {
    const char *text;
    const char *wanted;
} examples[] = {
    /* level 1 */
    {"{var}", "value"},
    {"{hello}", "Hello%20World%21"},
    /* level 2 */
    {"{+var}", "value"},
    {"{+hello}", "Hello%20World!"},
    {"{+path}/here", "/foo/bar/here"},
    {"here?ref={+path}", "here?ref=/foo/bar"},
    {"X{#var}", "X#value"},
    {"X{#hello}", "X#Hello%20World!"},
    /* level 3 */
    {"map?{x,y}", "map?1024,768"},
    {"{x,hello,y}", "1024,Hello%20World%21,768"},
    {"{+x,hello,y}", "1024,Hello%20World!,768"},
    {"{+path,x}/here", "/foo/bar,1024/here"},
    {"{#x,hello,y}", "#1024,Hello%20World!,768"},
    {"{#path,x}/here", "#/foo/bar,1024/here"},
    {"X{.var}", "X.value"},
    {"X{.x,y}", "X.1024.768"},
    {"{/var}", "/value"},
    {"{/var,x}/here", "/value/1024/here"},
    {"{;x,y}", ";x=1024;y=768"},
    {"{;x,y,empty}", ";x=1024;y=768;empty"},
    {"{?x,y}", "?x=1024&y=768"},
    {"{?x,y,empty}", "?x=1024&y=768&empty="},
    {"?fixed=yes{&x}", "?fixed=yes&x=1024"},
    {"{&x,y,empty}", "&x=1024&y=768&empty="},
    /* 3.2, without modifiers and lists */
    {"{half}", "50%25"},
    {"O{empty}X", "OX"},
    {"O{undef}X", "OX"},
    {"{x,empty}", "1024,"},
    {"?{x,empty}", "?1024,"},
    {"?{x,undef}", "?1024"},
    {"?{undef,y}", "?768"},
    {"{+half}", "50%25"},
    {"{base}index", "http%3A%2F%2Fexample.com%2Fhome%2Findex"},
    {"{+base}index", "http://example.com/home/index"},
    {"O{+empty}X", "OX"},
    {"O{+undef}X", "OX"},
    {"up{+path}{var}/here", "up/foo/barvalue/here"},
    {"{#half}", "#50%25"},
    {"foo{#empty}", "foo#"},
    {"foo{#undef}", "foo"},
    {"{.who}", ".fred"},
    {"{.who,who}", ".fred.fred"},
    {"{.half,who}", ".50%25.fred"},
    {"X{.empty}", "X."},
    {"X{.undef}", "X"},
    {"{/who,who}", "/fred/fred"},
    {"{/half,who}", "/50%25/fred"},
    {"{/var,empty}", "/value/"},
    {"{/var,undef}", "/value"},
    {"{;who}", ";who=fred"},
    {"{;half}", ";half=50%25"},
    {"{;empty}", ";empty"},
    {"{;v,empty,who}", ";v=6;empty;who=fred"},
    {"{;v,undef,who}", ";v=6;who=fred"},
    {"{?who}", "?who=fred"},
    {"{?x,y,undef}", "?x=1024&y=768"},
    {"{?undef,y}", "?y=768"},
    {"{?undef}", ""},
    {"{&var,empty}", "&var=value&empty="},
    /* literals */
    {"", ""},
    {"plain", "plain"},
    {"https://a.example:8080/p;q?r=s&t#u[v]@w!$'()*+,=",
     "https://a.example:8080/p;q?r=s&t#u[v]@w!$'()*+,="},
    {"a b\"<>\\^`|%", "a%20b%22%3C%3E%5C%5E%60%7C%25"},
    {"%41%zz%4{x}", "%41%25zz%2541024"},
    {"\xc3\xa9\r\n", "%C3%A9%0D%0A"},
    /* values and names */
    {"{+escaped}|{escaped}", "%2Fx%25y%7C%252Fx%25y"},
    {"{utf8}{+utf8}", "%C3%A9%F0%9F%98%80%C3%A9%F0%9F%98%80"},
    {"{Var}{VAR}{var}", "capitalvalue"},
    {"{a.b}{;a%20b}{?_1}", "dot;a%20b=space?_1=one"},
};

static const struct {
    const char *text;
    const char *wanted;
} mistakes[] = {
    {"{var:3}", "URI template, character 5: the modifiers '*' and ':' are not supported"},
    {"/{/var*}", "URI template, character 7: the modifiers '*' and ':' are not supported"},
    {"{undef*}", "URI template, character 7: the modifiers '*' and ':' are not supported"},
    {"a{var", "URI template, character 6: '}' is missing"},
    {"{", "URI template, character 2: '}' is missing"},
    {"{var,", "URI template, character 6: '}' is missing"},
    {"a}b", "URI template, character 2: '}' without '{'"},
    {"{}", "URI template, character 2: a name of a variable, ',' or '}' is expected"},
    {"{?}", "URI template, character 3: a name of a variable, ',' or '}' is expected"},
    {"{var,}", "URI template, character 6: a name of a variable, ',' or '}' is expected"},
    {"{,var}", "URI template, character 2: a name of a variable, ',' or '}' is expected"},
    {"{a{b}}", "URI template, character 3: a name of a variable, ',' or '}' is expected"},
    {"{a b}", "URI template, character 3: a name of a variable, ',' or '}' is expected"},
    {"{a.}", "URI template, character 3: a name of a variable, ',' or '}' is expected"},
    {"{a..b}", "URI template, character 3: a name of a variable, ',' or '}' is expected"},
    {"{.a,.b}", "URI template, character 5: a name of a variable, ',' or '}' is expected"},
    {"{%4}", "URI template, character 2: a name of a variable, ',' or '}' is expected"},
    {"{\xc3\xa9}", "URI template, character 2: a name of a variable, ',' or '}' is expected"},
    {"{=var}", "URI template, character 2: a name of a variable, ',' or '}' is expected"},
    {"{!var}", "URI template, character 2: a name of a variable, ',' or '}' is expected"},
    {"{|var}", "URI template, character 2: a name of a variable, ',' or '}' is expected"},
};

static apr_table_t *variables(apr_pool_t *p)
{
    apr_table_t *vars = apr_table_make(p, 20);

    apr_table_addn(vars, "Var", "capital");
    apr_table_addn(vars, "var", "value");
    apr_table_addn(vars, "hello", "Hello World!");
    apr_table_addn(vars, "half", "50%");
    apr_table_addn(vars, "path", "/foo/bar");
    apr_table_addn(vars, "base", "http://example.com/home/");
    apr_table_addn(vars, "who", "fred");
    apr_table_addn(vars, "v", "6");
    apr_table_addn(vars, "x", "1024");
    apr_table_addn(vars, "y", "768");
    apr_table_addn(vars, "empty", "");
    apr_table_addn(vars, "escaped", "%2Fx%y");
    apr_table_addn(vars, "utf8", "\xc3\xa9\xf0\x9f\x98\x80");
    apr_table_addn(vars, "a.b", "dot");
    apr_table_addn(vars, "a%20b", "space");
    apr_table_addn(vars, "_1", "one");
    return vars;
}

static void percent(apr_pool_t *p)
{
    char all[256] = "";
    int i;

    for (i = 1; i < 256; i++) {
        all[i - 1] = (char)i;
    }
    is_str(psp_percent_decode(p, psp_percent_encode(p, all)), all, "all bytes there and back");
    is_str(psp_percent_encode(p, "aZ09-._~"), "aZ09-._~", "unreserved characters stay");
    is_str(psp_percent_encode(p, "a,b/%2F+\xff"), "a%2Cb%2F%252F%2B%FF", "all others do not");
    is_str(psp_percent_encode(p, ""), "", "nothing");
    is_str(psp_percent_decode(p, "a%2cb%2Fc+"), "a,b/c+", "both cases of hexadecimal; + is +");
    is_str(psp_percent_decode(p, ""), "", "nothing");
    is_str(psp_percent_decode(p, "a%00b"), NULL, "no NUL");
    is_str(psp_percent_decode(p, "a%"), NULL, "cut off");
    is_str(psp_percent_decode(p, "a%2"), NULL, "cut off later");
    is_str(psp_percent_decode(p, "%2g"), NULL, "not hexadecimal");
}

int main(void)
{
    apr_pool_t *pool = tap_begin();
    apr_table_t *vars = variables(pool);
    const char *error;
    const char *out;
    unsigned i;

    for (i = 0; i < sizeof examples / sizeof *examples; i++) {
        const char *name = apr_psprintf(pool, "template %u", i);

        if (psp_uri_template_expand(&out, examples[i].text, vars, pool, &error) != APR_SUCCESS) {
            out = error;
        }
        is_str(out, examples[i].wanted, name);
    }
    for (i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        const char *name = apr_psprintf(pool, "mistake %u", i);

        if (psp_uri_template_expand(&out, mistakes[i].text, vars, pool, &error) != APR_EINVAL ||
            out) {
            error = "(no error)";
        }
        is_str(error, mistakes[i].wanted, name);
    }
    percent(pool);
    return done(pool);
}
